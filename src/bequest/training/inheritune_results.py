"""What came of an Inheritune run, as sections of results.json: rounds and baselines in one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.results import Section
from bequest.training.held_out_losses import HeldOutLosses
from bequest.training.inheritune_plan import InheritunePlan
from bequest.training.inheritune_stop import Gap


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """A finished round."""

    depth: int
    """Blocks of the student."""
    folder: Path
    """Its model."""
    tokens: int
    """Tokens that it was trained on."""
    losses: dict[str, HeldOutLosses]
    """Held-out losses of the trained weights and of each average."""
    gap: Gap
    """Of the candidate to the reference."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline(Round):
    """A finished rival of the last round's student."""

    name: str
    """As the configuration names it."""
    gap_to_student: Gap
    """Of its candidate to the student's: above 0 where the student is better."""


def inheritune_sections(
    plan: InheritunePlan,
    reference: HeldOutLosses,
    rounds: Sequence[Round],
    baselines: Sequence[Baseline],
    reason: str,
) -> list[Section]:
    """Return the table of all models, the curve of the rounds, and how the run ended."""
    ended = [["why it ended", reason], ["result", str(rounds[-1].folder) if rounds else None]]
    return [
        _models(plan, reference, rounds, baselines),
        _curve(plan, rounds),
        Section(title="End", type="table", data={"columns": ["what", "value"], "rows": ended}),
    ]


def _models(
    plan: InheritunePlan,
    reference: HeldOutLosses,
    rounds: Sequence[Round],
    baselines: Sequence[Baseline],
) -> Section:
    names = list(rounds[0].losses) if rounds else []
    columns = ["model", "blocks", "parameters", "tokens", *(f"loss, {name}" for name in names)]
    columns += ["gap to the reference", "low", "high"]
    whole = plan.reference.start.checkpoint
    assert whole is not None
    rows: list[list[Any]] = []
    first: list[Any] = ["reference", plan.reference_depth, whole.num_parameters, None]
    rows.append([*first, *[reference.loss] * len(names), 0.0, None, None])
    labels = [f"round {number}" for number in range(1, len(rounds) + 1)]
    labels += [one.name for one in baselines]
    for label, done in zip(labels, [*rounds, *baselines], strict=True):
        losses = [_finite(done.losses[name].loss) for name in names]
        parameters = open_checkpoint(done.folder).num_parameters
        rows.append([label, done.depth, parameters, done.tokens, *losses, *_cells(done.gap)])
    if baselines:
        columns += ["gap to the student", "low", "high"]
        for row, one in zip(rows[-len(baselines) :], baselines, strict=True):
            row += _cells(one.gap_to_student)
        rows = [row + [None] * (len(columns) - len(row)) for row in rows]
        rows[len(rounds)][-3] = 0.0
    return Section(title="Rounds", type="table", data={"columns": columns, "rows": rows})


def _finite(loss: float) -> float | None:
    """An average that is not the candidate may have diverged."""
    return loss if math.isfinite(loss) else None


def _cells(gap: Gap) -> list[float]:
    return [gap.mean, gap.low, gap.high]


def _curve(plan: InheritunePlan, rounds: Sequence[Round]) -> Section:
    gaps = [done.gap for done in rounds]
    line = {
        "name": plan.candidate,
        "x": [done.depth for done in rounds],
        "y": [gap.mean for gap in gaps],
        "interval": {"low": [gap.low for gap in gaps], "high": [gap.high for gap in gaps]},
    }
    return Section(
        title="Student - reference",
        type="lines",
        data={"x_label": "blocks", "y_label": "loss (nats/token)", "series": [line]},
    )
