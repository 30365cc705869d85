"""The average that ends at every checkpoint of a run: what averaging would have given, and when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.averaging.average_config import AverageConfig
from bequest.averaging.candidates import (
    METRIC,
    Candidate,
    in_figure,
    in_table,
    make_candidate,
    measure,
    open_run,
    raw_candidate,
    require_any,
    write_candidates,
)
from bequest.averaging.forecast import Forecast
from bequest.averaging.measured import Evaluate, MeasuredLosses
from bequest.averaging.trajectory import DEFAULT_WINDOW, Window, listed
from bequest.checkpoints.account import account
from bequest.checkpoints.lineage import command_line, describe_input, write_lineage
from bequest.checkpoints.publish import require_space, staged_folder
from bequest.errors import InputError
from bequest.results import Section, write_results


@dataclass(frozen=True, kw_only=True)
class Slide:
    """The averages along a run."""

    target: Path
    """The folder that was written."""
    steps: tuple[int, ...]
    """Steps at which an average ends, increasing."""
    members: tuple[tuple[int | None, ...], ...]
    """Steps of each average's members, oldest first."""
    raw: tuple[float | None, ...]
    """Bits per byte of the checkpoint at each step; None if nothing was evaluated."""
    averaged: tuple[float | None, ...]
    """Bits per byte of the average."""
    notes: tuple[str, ...]
    """Sentences that the user must read."""

    def sections(self) -> list[Section]:
        """Return the table of all steps, and the two curves if they were evaluated."""
        columns = ["step", "members", f"raw ({METRIC})", f"averaged ({METRIC})"]
        rows = [
            [step, ", ".join(map(str, members)), in_table(raw), in_table(averaged)]
            for step, members, raw, averaged in zip(
                self.steps, self.members, self.raw, self.averaged, strict=True
            )
        ]
        evaluated = any(value is not None for value in self.averaged)
        if not evaluated:
            columns, rows = columns[:2], [row[:2] for row in rows]
        sections = [
            Section(title="averages", type="table", data={"columns": columns, "rows": rows})
        ]
        if evaluated:
            series = [
                {"name": name, "x": list(self.steps), "y": [in_figure(loss) for loss in values]}
                for name, values in (("raw", self.raw), ("averaged", self.averaged))
            ]
            data = {"x_label": "step", "y_label": METRIC, "series": series}
            sections.append(Section(title="raw and averaged", type="lines", data=data))
        return sections


def plan_slide(config: AverageConfig, *, evaluated: bool, keep: bool = True) -> Forecast:
    """Plan the averages along a run, from headers and configurations alone.

    Args:
        config: as for `slide`.
        evaluated: whether they would be evaluated.
        keep: whether they would stay.

    Raises:
        InputError: the request does not fit the run.
        StorageError: the disk cannot hold what would stay.
    """
    if not evaluated and not keep:
        raise InputError("texts is missing: averages that are not kept are made to be evaluated.")
    run = open_run(config, evaluated=evaluated)
    window = _window(config)
    found = [step for step in run.members if config.end is None or step <= config.end]
    ends = window.ends(found)
    if not ends:
        raise InputError(
            f"run {config.sources[0]} has no whole window of {window.size} with spacing "
            f"{config.spacing}; its complete steps are {listed(found)}."
        )
    candidates = tuple(
        make_candidate(
            window.ending_at(end, found) or (), run.members, config, run.target, f"step-{end}"
        )
        for end in ends
    )
    written = sum(c.plan.num_bytes for c in candidates) if keep else 0
    require_space(run.target, written)
    temporary = _temporary(candidates, config, keep=keep) if evaluated else []
    return Forecast(
        target=run.target,
        candidates=candidates,
        written=written,
        temporary=sum(candidate.plan.num_bytes for candidate in temporary),
        notes=run.notes,
    )


def slide(
    config: AverageConfig,
    *,
    evaluate: Evaluate | None = None,
    evaluation: str | None = None,
    keep: bool = True,
    progress: bool = False,
) -> Slide:
    """Make the average that ends at every checkpoint of a run, reading each checkpoint once.

    Args:
        config: run, folder to write, window, mixture; `end` is the last step.
        evaluate: gives a folder's loss; None evaluates nothing.
        evaluation: what names the text that `evaluate` measures on, such as a hash of it: the same
            call then takes up the losses of one that was broken off. None measures all anew.
        keep: write each average to `OUT/step-N`; otherwise they are only evaluated.
        progress: show bars.

    Raises:
        InputError: the request does not fit the run; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    started = time.monotonic()
    plan = plan_slide(config, evaluated=evaluate is not None, keep=keep)
    target, candidates, notes = plan.target, list(plan.candidates), list(plan.notes)
    ends = [candidate.plan.members[-1].step for candidate in candidates]
    with staged_folder(target, overwrite=config.overwrite) as staging:
        if keep:
            candidates = write_candidates(candidates, staging, progress=progress)
            require_any(candidates)
        losses: dict[str, float] = {}
        measured = None if evaluate is None else MeasuredLosses(target, evaluate, evaluation)
        if measured is not None:
            candidates, losses = _losses(
                candidates, staging if keep else None, target, config, measured, progress=progress
            )
        there = {candidate.plan.members[-1].step for candidate in candidates}
        left_out = [end for end in ends if end not in there]
        notes += [f"No average ends at step {end}, which holds NaN or Inf." for end in left_out]
        made = _slide(target, candidates, losses, notes)
        told = account(config, seconds=time.monotonic() - started)
        write_results(staging, command_line(), [*made.sections(), told])
        used = {m.step: m for c in candidates for m in c.plan.members}
        write_lineage(
            staging,
            operation="average",
            settings={"sliding": True, "window": _window(config).size, "spacing": config.spacing}
            | {"ends": list(made.steps), "kept": keep, "coefficients": config.coefficients}
            | {"blend": config.blend, "exclude": list(config.exclude), "dtype": config.dtype},
            inputs=[describe_input(m.weights, "member", full_hash=False) for m in used.values()],
            outputs=[path for path in staging.iterdir() if path.is_file()],
            full_hash=False,
        )
    if measured is not None:
        measured.forget()
    return made


def _window(config: AverageConfig) -> Window:
    size = DEFAULT_WINDOW if config.window is None else config.window
    return Window(size=size, spacing=config.spacing)


def _temporary(
    candidates: Sequence[Candidate], config: AverageConfig, *, keep: bool
) -> list[Candidate]:
    """Return what must be written to be evaluated, and then goes."""
    raw = [
        raw_candidate(candidate, config)
        for candidate in candidates
        if candidate.plan.members[-1].weights.format != "model"
    ]
    return raw if keep else [*candidates, *raw]


def _losses(
    candidates: Sequence[Candidate],
    kept: Path | None,
    target: Path,
    config: AverageConfig,
    measured: MeasuredLosses,
    *,
    progress: bool,
) -> tuple[list[Candidate], dict[str, float]]:
    """Evaluate the averages, and the newest member of each.

    Returns:
        The averages as they were made, and the losses by the folders' names.
    """
    losses: dict[str, float] = {}
    temporary = _temporary(candidates, config, keep=kept is not None)
    found: dict[str, Candidate] = {}
    for candidate, loss in measure(temporary, target, measured, progress=progress):
        found[candidate.name], losses[candidate.name] = candidate, loss
    made = list(candidates)
    if kept is None:
        made = [found[candidate.name] for candidate in candidates if candidate.name in found]
        require_any(made)
    for candidate in made:
        if f"raw-{candidate.name}" not in losses:
            folder = candidate.plan.members[-1].weights.location.folder
            raw = raw_candidate(candidate, config).plan
            losses[f"raw-{candidate.name}"] = measured.measure(raw, folder)
        if kept is not None:
            losses[candidate.name] = measured.measure(candidate.plan, kept / candidate.name)
    return made, losses


def _slide(
    target: Path, candidates: Sequence[Candidate], losses: dict[str, float], notes: Sequence[str]
) -> Slide:
    skipped = {
        f"Left out {member.weights.name}: it holds NaN or Inf."
        for candidate in candidates
        for member in candidate.plan.skipped
    }
    return Slide(
        target=target,
        steps=tuple(c.plan.members[-1].step or 0 for c in candidates),
        members=tuple(tuple(m.step for m in c.plan.members) for c in candidates),
        raw=tuple(losses.get(f"raw-{c.name}") for c in candidates),
        averaged=tuple(losses.get(c.name) for c in candidates),
        notes=(*notes, *sorted(skipped)),
    )
