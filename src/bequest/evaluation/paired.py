"""What a model gained or lost against another: paired item by item, corrected over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from bequest.errors import InputError
from bequest.evaluation.bootstrap import (
    FEWEST_FLIPS,
    bca_interval,
    resampled,
    sign_flip_test,
)
from bequest.evaluation.items import Floats, ItemScores, in_order_of
from bequest.evaluation.mcnemar import mcnemar, smallest_share, unchanged_interval
from bequest.evaluation.power import smallest_mean_difference
from bequest.evaluation.runs import RunDifference, difference_of_runs

Verdict = Literal["better", "worse", "no change seen", "identical", "too few items to tell"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How differences are judged."""

    level: float = 0.95
    """Of the interval of each single task."""
    alpha: float = 0.05
    """Chance, over all comparisons together, to call any difference that is not there."""
    power: float = 0.8
    """Chance of finding a true difference as large as the smallest that is told."""
    resamples: int = 10_000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("level", "alpha", "power"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.resamples < 100:
            raise InputError(f"resamples is {self.resamples}; an interval needs at least 100")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models, or two groups of runs, on one task."""

    task: str
    """Name of the task."""
    metric: str
    """What the scores are."""
    before_name: str
    """The model that is compared with."""
    after_name: str
    """The model that is judged."""
    num_items: int
    """Items that both were read on."""
    num_runs: tuple[int, int]
    """Runs before and after."""
    before: float
    """Score, the mean over runs."""
    after: float
    """Score, likewise."""
    difference: float
    """`after - before`."""
    interval: tuple[float, float] | None
    """Of the difference; None for a single item."""
    p_value: float | None
    """Of no difference, two-sided; None for a single item."""
    changed: tuple[int, int] | None
    """Right-or-wrong items of single runs: right after only, right before only."""
    higher_is_better: bool
    """Whether a positive difference is a gain."""
    corrected_p: float | None = None
    """`p_value` after Holm's correction over all comparisons."""
    smallest_difference: float | None = None
    """The least difference that these items could have shown; None if they could show none."""
    verdict: Verdict = "no change seen"
    """What may be said."""


def compare_all(
    pairs: Sequence[tuple[Group, Group]], statistics: Statistics | None = None
) -> list[Comparison]:
    """Compare pairs of models, each on one task, and correct over all of them.

    Args:
        pairs: the one compared with, and the one judged.
        statistics: levels, power and draws.

    Raises:
        InputError: a pair's items are not the same items of the same task.
    """
    settings = statistics or Statistics()
    # A p-value is at least one in so many draws: of many comparisons, Holm would let none pass.
    draws = math.ceil(4 * len(pairs) / settings.alpha)
    judged = [_Pair(before, after, settings, draws) for before, after in pairs]
    found = [pair.comparison() for pair in judged]
    tested = [row for row, one in enumerate(found) if one.p_value is not None]
    corrected = holm([found[row].p_value or 0.0 for row in tested])
    # Holm holds the smallest of p values to this level: what is told here holds at any rank.
    strict = settings.alpha / max(1, len(tested))
    for row, p_value in zip(tested, corrected, strict=True):
        smallest = judged[row].smallest(strict)
        verdict = _verdict(found[row], p_value, smallest, settings.alpha)
        found[row] = replace(
            found[row], corrected_p=p_value, smallest_difference=smallest, verdict=verdict
        )
    return [
        one if one.p_value is not None else replace(one, verdict="too few items to tell")
        for one in found
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979). Holds whatever the
    tests have to do with one another.
    """
    corrected = [0.0] * len(p_values)
    reached = 0.0
    for rank, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[row]))
        corrected[row] = reached
    return corrected


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """A model on one task, or several runs of one method."""

    name: str
    """What tables call it."""
    runs: tuple[ItemScores, ...]
    """Each run's items."""

    @property
    def score(self) -> float:
        """Mean over the runs."""
        return float(np.mean([run.score for run in self.runs]))


class _Pair:
    """One pair's items in an order, and a direction, that do not depend on how they were given.

    So neither the order of items nor which model is called "before" changes a digit of what random
    draws say of them.
    """

    def __init__(
        self, before: Group, after: Group, settings: Statistics, fewest_draws: int
    ) -> None:
        reference = before.runs[0]
        self._groups = before, after
        self._fewest_draws = fewest_draws
        self._settings = settings
        runs = [[in_order_of(run, reference) for run in group.runs] for group in (before, after)]
        means = [np.mean([run.values for run in group], axis=0) for group in runs]
        differences = means[1] - means[0]
        self._sign = _direction(differences, reference.sizes)
        order = np.lexsort((self._sign * differences, reference.sizes))
        self._differences: Floats = (self._sign * differences)[order]
        self._sizes = reference.sizes[order]
        self._runs = [[_reordered(run, order) for run in group] for group in runs]
        self._single = all(len(group) == 1 for group in runs)
        self._binary = self._single and all(run.is_binary for group in runs for run in group)

    def comparison(self) -> Comparison:
        before, after = self._groups
        interval, p_value = self._judged()
        return Comparison(
            task=before.runs[0].task,
            metric=before.runs[0].metric,
            before_name=before.name,
            after_name=after.name,
            num_items=len(self._sizes),
            num_runs=(len(before.runs), len(after.runs)),
            before=before.score,
            after=after.score,
            difference=self._sign * float(self._differences.sum() / self._sizes.sum()),
            interval=interval,
            p_value=p_value,
            changed=self._changed if self._binary else None,
            higher_is_better=before.runs[0].higher_is_better,
        )

    @property
    def _changed(self) -> tuple[int, int]:
        signed = self._sign * self._differences
        return int((signed > 0).sum()), int((signed < 0).sum())

    @cached_property
    def _over_runs(self) -> RunDifference:
        before, after = self._runs if self._sign > 0 else self._runs[::-1]
        resamples = max(self._settings.resamples, self._fewest_draws)
        return difference_of_runs(before, after, resamples=resamples, generator=self._generator())

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._settings.seed)

    def _judged(self) -> tuple[tuple[float, float] | None, float | None]:
        """The interval and the p-value, in the direction in which they were asked for."""
        settings, count = self._settings, len(self._sizes)
        if count < 2:
            return None, None
        if not self._single:
            over_runs = self._over_runs
            return self._turned(over_runs.interval(settings.level)), over_runs.p_value
        p_value = (
            mcnemar(*self._changed)
            if self._binary
            else sign_flip_test(
                self._differences, self._generator(), max(FEWEST_FLIPS, self._fewest_draws)
            )
        )
        if self._binary and self._changed == (0, 0):
            return unchanged_interval(count, settings.level), p_value
        draws = resampled(self._differences, self._sizes, settings.resamples, self._generator())
        interval = bca_interval(draws, self._differences, self._sizes, settings.level)
        if np.array_equal(np.sort(-self._differences), np.sort(self._differences)):
            # Exactly balanced, so neither direction may differ by the luck of the draw.
            half = (interval[1] - interval[0]) / 2
            interval = -half, half
        return self._turned(interval), p_value

    def _turned(self, interval: tuple[float, float]) -> tuple[float, float]:
        low, high = interval
        return (low, high) if self._sign > 0 else (-high, -low)

    def smallest(self, alpha: float) -> float | None:
        """The least difference that would have been found at this level."""
        power = self._settings.power
        if not self._single:
            return self._over_runs.smallest(alpha=alpha, power=power)
        if self._binary:
            changed = sum(self._changed)
            return smallest_share(len(self._sizes), changed, alpha=alpha, power=power)
        return smallest_mean_difference(self._differences, self._sizes, alpha=alpha, power=power)


def _direction(differences: Floats, sizes: Floats) -> float:
    """1 or -1, whichever makes the sum positive; for a sum of 0, the larger of the two lists."""
    total = differences.sum()
    if not math.isclose(total, 0, abs_tol=1e-12 * float(np.abs(differences).sum())):
        return 1.0 if total > 0 else -1.0
    forward = differences[np.lexsort((differences, sizes))]
    backward = -differences[np.lexsort((-differences, sizes))]
    return 1.0 if forward.tolist() >= backward.tolist() else -1.0


def _reordered(scores: ItemScores, order: np.ndarray) -> ItemScores:
    return replace(
        scores,
        ids=tuple(scores.ids[row] for row in order),
        values=scores.values[order],
        sizes=scores.sizes[order],
    )


def _verdict(one: Comparison, corrected_p: float, smallest: float | None, alpha: float) -> Verdict:
    if corrected_p <= alpha:
        return "better" if (one.difference > 0) == one.higher_is_better else "worse"
    if one.interval == (0.0, 0.0):
        return "identical"
    return "no change seen" if smallest is not None else "too few items to tell"
