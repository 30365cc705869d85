"""The cells that are done, as arrays, and the arithmetic that compares them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.inheritance.data import CELLS
from experiments.inheritance.run import Cell, marked

DRAWS = 2000
CURVES = ("raw", "lawa")
Losses = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The losses of one cell."""

    cell: Cell
    """What was run."""
    steps: tuple[int, ...]
    """At which it was measured."""
    nats: dict[str, Losses]
    """(S, D) nats of each document at each step, by curve; NaN where an average was not yet."""
    tokens: NDArray[np.int64]
    """(D,) tokens of each document."""
    parameters: int
    """Of the model."""
    seconds: float
    """Of the processor."""

    @classmethod
    def read(cls, file: Path) -> Run:
        """Read a cell's file."""
        document = json.loads(file.read_text())
        points = document["curves"]
        tokens = np.array(points[0]["raw"]["tokens"])
        nothing = {"nats": [np.nan] * len(tokens)}
        nats = {c: np.array([p.get(c, nothing)["nats"] for p in points]) for c in CURVES}
        return cls(
            cell=Cell(**{k: document[k] for k in Cell.__dataclass_fields__ if k in document}),
            steps=tuple(point["step"] for point in points),
            nats=nats,
            tokens=tokens,
            parameters=document["parameters"],
            seconds=document["processor_seconds"],
        )

    def curve(self, name: str) -> Losses:
        """(S,) nats a token."""
        losses: Losses = self.nats[name].sum(1) / self.tokens.sum()
        return losses

    def at(self, step: int, name: str = "raw") -> Losses:
        """(D,) nats of each document at a step."""
        nats: Losses = self.nats[name][self.steps.index(step)]
        return nats


def gap(
    ours: Sequence[Losses], others: Sequence[Losses], tokens: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Mean difference in nats a token over seeds, and its 95 % interval over seeds and documents.

    Args:
        ours: (D,) nats of each document, one array a seed.
        others: what each is compared with, in the same order, on the same documents.
        tokens: (D,) tokens of each document.
    """
    generator = np.random.default_rng(0)
    apart = np.array(ours) - np.array(others)
    seeds, documents = apart.shape
    found = []
    for _ in range(DRAWS):
        drawn = generator.integers(documents, size=documents)
        chosen = generator.integers(seeds, size=seeds)
        found.append(apart[chosen][:, drawn].sum() / (seeds * tokens[drawn].sum()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(apart.sum() / (seeds * tokens.sum())), float(low), float(high)


def steps_to_reach(steps: Sequence[int], losses: Iterable[float], level: float) -> float | None:
    """The step at which a curve, drawn straight between its points, is first at or below a level."""
    before: tuple[int, float] | None = None
    for step, loss in zip(steps, losses, strict=True):
        if loss <= level:
            if before is None:
                return float(step)
            share = (before[1] - level) / (before[1] - loss)
            return before[0] + share * (step - before[0])
        before = step, loss
    return None


def best_rate(runs: Sequence[Run], study: str, start: str, depth: int) -> float | None:
    """The rate of the lowest raw loss at the end, with seed 0."""
    own = [r for r in runs if key(r) == (study, start, depth) and r.cell.seed == 0]
    if not own:
        return None
    return min(own, key=lambda run: run.curve("raw")[-1]).cell.rate


def key(run: Run) -> tuple[str, str, int]:
    """What a row of a table is about: study, start (and how many times the steps), depth."""
    longer = marked(" x", run.cell.times) + marked(" of x", run.cell.reference_times)
    return run.cell.study, run.cell.start + longer, run.cell.depth


def chosen(runs: Sequence[Run], study: str, start: str, depth: int) -> dict[int, Run]:
    """The runs of the best rate, by seed."""
    rate = best_rate(runs, study, start, depth)
    own = [r for r in runs if key(r) == (study, start, depth) and r.cell.rate == rate]
    return {run.cell.seed: run for run in sorted(own, key=lambda run: run.cell.seed)}


def read_all() -> list[Run]:
    """The cells that are done."""
    return [Run.read(file) for file in sorted(CELLS.glob("*_*_*_*_*.json"))]
