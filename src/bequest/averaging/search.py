"""Try windows and spacings against held-out text, and write the best average."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bequest.averaging.average_config import AverageConfig
from bequest.averaging.build import build
from bequest.averaging.candidates import (
    METRIC,
    Candidate,
    in_table,
    make_candidate,
    measure,
    open_run,
    require_any,
)
from bequest.averaging.forecast import Forecast
from bequest.averaging.measured import Evaluate, MeasuredLosses
from bequest.averaging.plan import AveragePlan
from bequest.averaging.trajectory import Window, listed
from bequest.errors import InputError
from bequest.results import Section

DEFAULT_WINDOWS = (1, 2, 3, 5, 8, 12)
"""Sizes to try: 1 is the checkpoint itself, and steps of about 1.5 miss little."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One window of a search."""

    window: Window
    """Its size and spacing."""
    steps: tuple[int, ...]
    """Its members, oldest first; with `skip_bad`, without those that hold NaN or Inf."""
    loss: float
    """Bits per byte of its average."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found."""

    trials: tuple[Trial, ...]
    """Every window, by size and spacing."""
    best: Trial
    """The one with the lowest loss; of equals, the smallest."""
    plan: AveragePlan
    """The best average, which was written."""
    notes: tuple[str, ...]
    """Sentences that the user must read."""

    def sections(self) -> list[Section]:
        """Return the table of all windows."""
        return _sections(self.trials)


def search(
    config: AverageConfig,
    *,
    windows: Sequence[int] = DEFAULT_WINDOWS,
    spacings: Sequence[int] | None = None,
    evaluate: Evaluate,
    evaluation: str | None = None,
    progress: bool = False,
) -> Search:
    """Evaluate every window that the run's checkpoints allow, and write the best average.

    The best of many was chosen on the text it is measured on, so its own loss is a little too good:
    measure it once more on other text before it is reported.

    Args:
        config: run, folder to write, end and mixture; not `window` and `spacing`.
        windows: sizes to try.
        spacings: steps between members to try; None tries the distance between the last two
            checkpoints, and its doubles.
        evaluate: gives a folder's loss.
        evaluation: what names the text that `evaluate` measures on, as for `slide`.
        progress: show bars.

    Raises:
        InputError: the request does not fit the run; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    planned, chosen = _plan(config, windows, spacings)
    target, notes = planned.target, planned.notes
    found: dict[str, tuple[Candidate, float]] = {}
    losses = MeasuredLosses(target, evaluate, evaluation)
    for candidate, loss in measure(planned.candidates, target, losses, progress=progress):
        found[candidate.name] = (candidate, loss)
    require_any([candidate for candidate, _ in found.values()])
    trials = tuple(
        Trial(
            window=window,
            steps=tuple(m.step for m in found[_name(window)][0].plan.members if m.step is not None),
            loss=found[_name(window)][1],
        )
        for window in chosen.values()
        if _name(window) in found
    )
    sound = [trial for trial in trials if math.isfinite(trial.loss)]
    if not sound:
        losses.forget()
        raise InputError(
            f"run {config.sources[0]} gives no average whose loss is finite; nothing was written."
        )
    best = min(sound, key=lambda trial: (trial.loss, trial.window.size))
    winner = found[_name(best.window)][0].plan
    plan = build(
        dataclasses.replace(winner, target=target), progress=progress, sections=_sections(trials)
    )
    losses.forget()
    return Search(trials=trials, best=best, plan=plan, notes=(*notes, *plan.notes))


def plan_search(
    config: AverageConfig,
    *,
    windows: Sequence[int] = DEFAULT_WINDOWS,
    spacings: Sequence[int] | None = None,
) -> Forecast:
    """Plan the averages that a search would evaluate, from headers and configurations alone.

    Args:
        config: as for `search`.
        windows: sizes to try.
        spacings: steps between members to try, as for `search`.

    Raises:
        InputError: the request does not fit the run.
        StorageError: the disk cannot hold the best average.
    """
    return _plan(config, windows, spacings)[0]


def _plan(
    config: AverageConfig, windows: Sequence[int], spacings: Sequence[int] | None
) -> tuple[Forecast, dict[tuple[int, ...], Window]]:
    if config.window is not None or config.spacing is not None:
        raise InputError("window and spacing are what is searched for; give --windows, --spacings.")
    run = open_run(config, evaluated=True)
    steps = list(run.members)
    end = steps[-1] if config.end is None else config.end
    if end not in run.members:
        raise InputError(f"end is {end}, but the run has the complete steps {listed(steps)}.")
    chosen = _windows(steps, end, windows, spacings)
    if not chosen:
        raise InputError(
            f"no window of {listed(windows)} with such spacings ends at step {end}; the run has the "
            f"complete steps {listed(steps)}."
        )
    candidates = tuple(
        make_candidate(picked, run.members, config, run.target, _name(window))
        for picked, window in chosen.items()
    )
    forecast = Forecast(
        target=run.target,
        candidates=candidates,
        written=candidates[0].plan.num_bytes,
        temporary=sum(candidate.plan.num_bytes for candidate in candidates),
        notes=run.notes,
    )
    return forecast, chosen


def _name(window: Window) -> str:
    return f"{window.size}-{window.spacing}"


def _windows(
    steps: Sequence[int], end: int, sizes: Sequence[int], spacings: Sequence[int] | None
) -> dict[tuple[int, ...], Window]:
    """Return the windows that the run allows by their members, smallest first."""
    if spacings is None:
        distance = end - max((step for step in steps if step < end), default=end - 1)
        spacings = [distance]
        while 2 * spacings[-1] <= end - steps[0]:
            spacings.append(2 * spacings[-1])
    chosen: dict[tuple[int, ...], Window] = {}
    for size in sorted(set(sizes)):
        for spacing in sorted(set(spacings)):
            window = Window(size=size, spacing=spacing)
            picked = window.ending_at(end, steps)
            # A window of one is the same at every spacing.
            if picked is not None and picked not in chosen:
                chosen[picked] = window
    return chosen


def _sections(trials: Sequence[Trial]) -> list[Section]:
    rows = [
        [t.window.size, t.window.spacing, ", ".join(map(str, t.steps)), in_table(t.loss)]
        for t in sorted(trials, key=lambda t: t.loss if math.isfinite(t.loss) else math.inf)
    ]
    table = {"columns": ["window", "spacing", "members", f"{METRIC} (held-out)"], "rows": rows}
    sizes = sorted({trial.window.size for trial in trials})
    spacings = sorted({trial.window.spacing or 0 for trial in trials})
    loss_of = {
        (t.window.size, t.window.spacing or 0): t.loss for t in trials if math.isfinite(t.loss)
    }
    heatmap = {
        "x_label": "spacing (steps)",
        "y_label": "window",
        "value_label": METRIC,
        "x": spacings,
        "y": sizes,
        "values": [[loss_of.get((size, spacing)) for spacing in spacings] for size in sizes],
    }
    return [
        Section(title="windows, best first", type="table", data=table),
        Section(title="windows and spacings", type="heatmap", data=heatmap),
    ]
