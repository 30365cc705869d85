"""Several runs of a method: another seed must be able to turn a verdict round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bequest.evaluation.items import Floats, ItemScores
from bequest.evaluation.paired import Comparison, Group, Statistics, compare_all
from bequest.evaluation.runs import difference_of_runs

STATISTICS = Statistics(resamples=2000)


def run(values: Floats) -> ItemScores:
    return ItemScores(
        task="t",
        metric="score",
        ids=tuple(map(str, range(len(values)))),
        values=values,
        sizes=np.ones(len(values)),
        higher_is_better=True,
    )


def drawn(
    generator: np.random.Generator, items: Floats, effect: float, seeds: int, spread: float
) -> tuple[ItemScores, ...]:
    """Runs whose mean lies `effect` above the items', each off by its seed's luck."""
    return tuple(
        run(items + effect + generator.normal(0, spread) + generator.normal(0, 0.1, len(items)))
        for _ in range(seeds)
    )


def compared(before: tuple[ItemScores, ...], after: tuple[ItemScores, ...]) -> Comparison:
    (one,) = compare_all([(Group(name="a", runs=before), Group(name="b", runs=after))], STATISTICS)
    return one


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_methods_that_are_alike_are_seldom_told_apart(seeds: int) -> None:
    """With items alone as the sample, runs that scatter would differ nearly always."""
    generator = np.random.default_rng(seeds)
    wrong = missed = naive = 0
    trials = 200
    for _ in range(trials):
        items = generator.normal(0, 1, 100)
        before = drawn(generator, items, 0.0, seeds, 0.2)
        after = drawn(generator, items, 0.0, seeds, 0.2)
        one = compared(before, after)
        assert one.interval is not None
        wrong += one.verdict != "no change seen"
        missed += not one.interval[0] <= 0 <= one.interval[1]
        naive += compared(before[:1], after[:1]).verdict != "no change seen"
    assert wrong / trials <= 0.08
    assert missed / trials <= 0.08
    assert naive / trials > 0.5


def test_a_real_difference_is_seen() -> None:
    generator = np.random.default_rng(0)
    items = generator.normal(0, 1, 200)
    before, after = (drawn(generator, items, effect, 4, 0.05) for effect in (0.0, 0.6))
    one = compared(before, after)
    assert (one.verdict, one.num_runs) == ("better", (4, 4))
    assert one.difference == pytest.approx(0.6, abs=0.2)
    assert one.smallest_difference is not None and 0.02 < one.smallest_difference < 0.6


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_smallest_difference_is_found_about_four_times_in_five(seeds: int) -> None:
    """Measure, and count how often a repetition with as large a difference finds it."""
    generator = np.random.default_rng(seeds)
    found, trials = 0, 150
    for _ in range(trials):
        items = generator.normal(0, 1, 40)
        before, after = (drawn(generator, items, 0.0, seeds, 0.05) for _ in range(2))
        options: dict[str, Any] = {"resamples": 500, "generator": generator}
        smallest = difference_of_runs(before, after, **options).smallest(alpha=0.05, power=0.8)
        assert smallest is not None
        before = drawn(generator, items, 0.0, seeds, 0.05)
        after = drawn(generator, items, smallest, seeds, 0.05)
        found += difference_of_runs(before, after, **options).p_value <= 0.05
    # So few runs hardly say how much runs scatter; with normal quantiles, 0.5 and 0.6.
    assert 0.68 < found / trials < 0.9


def test_a_single_run_counts_as_the_fixed_model() -> None:
    """Only the runs after are a sample; the standard error has their part and the items'."""
    generator = np.random.default_rng(0)
    items = generator.normal(0, 1, 50)
    before, after = (run(items),), drawn(generator, items, 0.1, 3, 0.1)
    found = difference_of_runs(before, after, resamples=1000, generator=np.random.default_rng(0))
    means = np.array([one.values.mean() for one in after])
    each = np.mean([one.values for one in after], axis=0) - items
    expected = means.std(ddof=1) ** 2 / 3 + each.std(ddof=1) ** 2 / 50
    assert found.standard_error == pytest.approx(expected**0.5)
    assert found.difference == pytest.approx(means.mean() - items.mean())


def test_exchanging_the_groups_or_the_order_changes_nothing_but_the_sign() -> None:
    generator = np.random.default_rng(4)
    items = generator.normal(0, 1, 30)
    before, after = drawn(generator, items, 0, 2, 0.1), drawn(generator, items, 0.1, 3, 0.1)
    one, turned = compared(before, after), compared(after, before)
    assert one.interval is not None and turned.interval is not None
    assert turned.interval == pytest.approx((-one.interval[1], -one.interval[0]))
    assert turned.p_value == one.p_value
    order = generator.permutation(30)
    moved = tuple(
        replace(r, ids=tuple(r.ids[i] for i in order), values=r.values[order]) for r in before
    )
    again = compared(moved, after)
    assert again.interval == pytest.approx(one.interval)
    assert again.p_value == one.p_value
