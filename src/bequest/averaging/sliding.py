"""The average that ends at every checkpoint of a run: what averaging would have given, and when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.averaging.average import AverageConfig, require_out
from bequest.averaging.candidates import (
    METRIC,
    Candidate,
    make_candidate,
    measure,
    open_run,
    raw_candidate,
    require_models,
    write_candidates,
)
from bequest.averaging.measured import Evaluate, MeasuredLosses
from bequest.averaging.trajectory import DEFAULT_WINDOW, Window, listed
from bequest.checkpoints.account import account
from bequest.checkpoints.lineage import command_line, describe_input, write_lineage
from bequest.checkpoints.publish import check_target, require_space, staged_folder
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
            [step, ", ".join(map(str, members)), raw, averaged]
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
                {"name": name, "x": list(self.steps), "y": list(values)}
                for name, values in (("raw", self.raw), ("averaged", self.averaged))
            ]
            data = {"x_label": "step", "y_label": METRIC, "series": series}
            sections.append(Section(title="raw and averaged", type="lines", data=data))
        return sections


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
    if evaluate is None and not keep:
        raise InputError("texts is missing: averages that are not kept are made to be evaluated.")
    members, notes = open_run(config)
    if evaluate is not None:
        require_models(members, config)
    target = check_target(
        require_out(config),
        overwrite=config.overwrite,
        inputs=tuple(member.weights.location.folder for member in members.values()),
    )
    size = DEFAULT_WINDOW if config.window is None else config.window
    window = Window(size=size, spacing=config.spacing)
    found = [step for step in members if config.end is None or step <= config.end]
    ends = window.ends(found)
    if not ends:
        raise InputError(
            f"run {config.sources[0]} has no whole window of {size} with spacing {config.spacing}; "
            f"its complete steps are {listed(found)}."
        )
    candidates = [
        make_candidate(window.ending_at(end, found) or (), members, config, target, f"step-{end}")
        for end in ends
    ]
    require_space(target, sum(c.plan.num_bytes for c in candidates) if keep else 0)
    with staged_folder(target, overwrite=config.overwrite) as staging:
        if keep:
            candidates = write_candidates(candidates, staging, progress=progress)
        losses: dict[str, float] = {}
        measured = None if evaluate is None else MeasuredLosses(target, evaluate, evaluation)
        if measured is not None:
            losses = _losses(
                candidates, staging if keep else None, target, config, measured, progress=progress
            )
        made = _slide(target, candidates, losses, notes)
        told = account(config, seconds=time.monotonic() - started)
        write_results(staging, command_line(), [*made.sections(), told])
        used = {m.step: m for c in candidates for m in c.plan.members}
        write_lineage(
            staging,
            operation="average",
            settings={"sliding": True, "window": size, "spacing": config.spacing}
            | {"ends": list(made.steps), "kept": keep, "coefficients": config.coefficients}
            | {"blend": config.blend, "exclude": list(config.exclude), "dtype": config.dtype},
            inputs=[describe_input(m.weights, "member", full_hash=False) for m in used.values()],
            outputs=[path for path in staging.iterdir() if path.is_file()],
            full_hash=False,
        )
    if measured is not None:
        measured.forget()
    return made


def _losses(
    candidates: Sequence[Candidate],
    kept: Path | None,
    target: Path,
    config: AverageConfig,
    measured: MeasuredLosses,
    *,
    progress: bool,
) -> dict[str, float]:
    """Evaluate the averages, and the newest member of each, by the folders' names."""
    losses: dict[str, float] = {}
    temporary = [] if kept is not None else list(candidates)
    for candidate in candidates:
        newest = candidate.plan.members[-1].weights
        if newest.format != "model":
            temporary.append(raw_candidate(candidate, config))
    for candidate, loss in measure(temporary, target, measured, progress=progress):
        losses[candidate.name] = loss
    for candidate in candidates:
        if f"raw-{candidate.name}" not in losses:
            folder = candidate.plan.members[-1].weights.location.folder
            raw = raw_candidate(candidate, config).plan
            losses[f"raw-{candidate.name}"] = measured.measure(raw, folder)
        if kept is not None:
            losses[candidate.name] = measured.measure(candidate.plan, kept / candidate.name)
    return losses


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
