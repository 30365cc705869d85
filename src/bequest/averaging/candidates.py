"""Several averages of one run at once: written in one pass over its checkpoints, and measured."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bequest.averaging.alike import Member
from bequest.averaging.average_config import AverageConfig, require_out
from bequest.averaging.build import bad_member, verify, without_bad, write_small_files
from bequest.averaging.measured import MeasuredLosses
from bequest.averaging.plan import AveragePlan, plan_of
from bequest.averaging.sources import complete_checkpoints
from bequest.averaging.streaming import NonFiniteError, write_averages
from bequest.checkpoints.formats import MODEL_CONFIG, open_weights
from bequest.checkpoints.publish import check_target, scratch_folder
from bequest.errors import CheckpointError, InputError

METRIC = "bits per byte"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of several averages."""

    name: str
    """Its folder's name."""
    plan: AveragePlan
    """What it is made of."""


def in_table(loss: float | None) -> float | str | None:
    """Return a loss as a cell of a table, where a model that gives no numbers is to be seen."""
    return loss if loss is None or math.isfinite(loss) else "not finite"


def in_figure(loss: float | None) -> float | None:
    """Return a loss as a figure's number, which a loss that is not finite has no place in."""
    return loss if loss is not None and math.isfinite(loss) else None


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run whose checkpoints are open, and the folder that averages of it go to."""

    members: dict[int, Member]
    """Its complete checkpoints by step, increasing."""
    target: Path
    """The folder to write."""
    notes: tuple[str, ...]
    """A sentence for each checkpoint that was left out."""


def open_run(config: AverageConfig, *, evaluated: bool) -> OpenedRun:
    """Open every complete checkpoint of a run, and check that its averages can be written.

    Args:
        config: names the run and the folder to write.
        evaluated: whether the averages would be evaluated.

    Raises:
        InputError: the request names no run, the run holds nothing, what it holds cannot be
            evaluated, or the folder must not be written.
        CheckpointError: no checkpoint is complete.
    """
    members, notes = _open_members(config)
    if evaluated:
        _require_models(members, config)
    target = check_target(
        require_out(config),
        overwrite=config.overwrite,
        inputs=tuple(member.weights.location.folder for member in members.values()),
    )
    return OpenedRun(members=members, target=target, notes=tuple(notes))


def _open_members(config: AverageConfig) -> tuple[dict[int, Member], list[str]]:
    if len(config.sources) != 1 or config.repo is not None:
        raise InputError("sources must be one run's folder here; name it, and the folder to write.")
    run = Path(config.sources[0]).expanduser()
    found, faults = complete_checkpoints(run)
    if not found:
        raise InputError(f"run {run} holds no checkpoints: no checkpoint-N, stepN or iterN.")
    members = {
        c.step: Member(weights=open_weights(c.path), step=c.step)
        for c in found
        if c.step not in faults
    }
    notes = [f"{c.path} was left out: it {faults[c.step]}." for c in found if c.step in faults]
    if not members:
        raise CheckpointError(f"run {run} has no complete checkpoint: {notes[0]}")
    return members, notes


def make_candidate(
    steps: Sequence[int],
    members: dict[int, Member],
    config: AverageConfig,
    target: Path,
    name: str,
) -> Candidate:
    """Plan the average of some steps of a run, to be written to `target/name`.

    Raises:
        InputError: the members do not fit one another or the request.
    """
    chosen = [members[step] for step in steps]
    return Candidate(name=name, plan=plan_of(chosen, config.mixture, target / name, config.manner))


def raw_candidate(candidate: Candidate, config: AverageConfig) -> Candidate:
    """Plan a copy of a candidate's newest member alone."""
    plan = candidate.plan
    alone = dataclasses.replace(plan.mixture, coefficients="uniform", blend=1.0, exclude=())
    name = f"raw-{candidate.name}"
    copy = plan_of(plan.members[-1:], alone, plan.target.parent / name, config.manner)
    return Candidate(name=name, plan=copy)


def write_candidates(
    candidates: Sequence[Candidate], folder: Path, *, progress: bool
) -> list[Candidate]:
    """Write averages to `folder/name` each, reading every checkpoint once.

    Args:
        candidates: made from the same opened members.
        folder: an existing folder.
        progress: show a bar.

    Returns:
        What was written: with `skip_bad`, without the members that hold NaN or Inf, and without the
        averages that end in one, so it may be nothing.

    Raises:
        BequestError: a member cannot be averaged, or a plan does not load.
    """
    while candidates:
        # All have the same keys, shapes and configuration: one verdict holds for all.
        if candidates[0].plan.judged:
            verify(candidates[0].plan)
        folders = {candidate.name: folder / candidate.name for candidate in candidates}
        for path in folders.values():
            path.mkdir()
        try:
            _stream(candidates, folders, progress=progress)
            break
        except NonFiniteError as error:
            for path in folders.values():
                shutil.rmtree(path)
            candidates = _without_bad(candidates, error)
    for candidate in candidates:
        write_small_files(candidate.plan, folders[candidate.name])
    return list(candidates)


def measure(
    candidates: Sequence[Candidate], target: Path, losses: MeasuredLosses, *, progress: bool
) -> Iterator[tuple[Candidate, float]]:
    """Write averages for the time of their evaluation, as many at once as the disk has room for.

    Args:
        candidates: made from the same opened members.
        target: the folder beside which they lie for that time.
        losses: measures them, and knows what was measured before.
        progress: show bars.

    Yields:
        Each candidate as it was measured, and its loss: with `skip_bad`, without members that hold
        NaN or Inf. Those that end in one are not among them.
    """
    left = []
    for candidate in candidates:
        known = losses.known(candidate.plan)
        if known is None:
            left.append(candidate)
        else:
            yield candidate, known
    done = len(candidates) - len(left)
    bar = tqdm(
        total=len(candidates),
        initial=done,
        desc="evaluate",
        unit="model",
        disable=not progress,
        leave=False,
    )
    with bar:
        while left:
            with scratch_folder(target) as scratch:
                # Half of what is free: a live run may be writing there, too.
                room = shutil.disk_usage(scratch).free // 2
                count = max(1, min(len(left), room // left[0].plan.num_bytes))
                group, left = left[:count], left[count:]
                for candidate in write_candidates(group, scratch, progress=progress):
                    folder = scratch / candidate.name
                    yield candidate, losses.measure(candidate.plan, folder)
                    shutil.rmtree(folder)
                    bar.update()


def require_any(made: Sequence[Candidate]) -> None:
    """Refuse to go on without a single average.

    Raises:
        CheckpointError: there is none, since all would have ended in a bad member.
    """
    if not made:
        raise CheckpointError("every average would end in a checkpoint that holds NaN or Inf.")


def _require_models(members: dict[int, Member], config: AverageConfig) -> None:
    """Refuse to evaluate what transformers cannot load: adapters, and what has no configuration."""
    newest = list(members.values())[-1].weights
    if newest.config_file == MODEL_CONFIG or (
        newest.config_file is None and config.config_from is not None
    ):
        return
    raise InputError(
        f"texts can only be predicted by whole models, and {newest.name} is "
        f"{'an adapter' if newest.format == 'adapter' else 'without a config.json'}; "
        "leave --texts out, or give --config-from."
    )


def _stream(candidates: Sequence[Candidate], folders: dict[str, Path], *, progress: bool) -> None:
    total = sum(shard.num_bytes for c in candidates for shard in c.plan.shards)
    bar = tqdm(total=total, desc="average", unit="B", unit_scale=True, disable=not progress)
    with bar:
        write_averages({folders[c.name]: c.plan.shards for c in candidates}, bar.update)


def _without_bad(candidates: Sequence[Candidate], error: NonFiniteError) -> list[Candidate]:
    kept = []
    for candidate in candidates:
        members = candidate.plan.members
        if all(m.weights.tensors[error.source.name] is not error.source for m in members):
            kept.append(candidate)
            continue
        if bad_member(candidate.plan, error.source) is not members[-1]:
            plan = without_bad(candidate.plan, error.source)
            kept.append(dataclasses.replace(candidate, plan=plan))
    return kept
