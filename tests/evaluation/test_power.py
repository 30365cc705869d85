"""The smallest difference that is told is found four times in five, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bequest.evaluation.bootstrap import sign_flip_test
from bequest.evaluation.items import ItemScores
from bequest.evaluation.paired import Group, Statistics, compare_all
from bequest.evaluation.power import smallest_mean_difference, student_quantile


@pytest.mark.parametrize(
    ("items", "alpha"), [(6, 0.05), (8, 0.05), (8, 0.01), (12, 0.05), (12, 0.002), (30, 0.05)]
)
def test_the_smallest_difference_is_found_four_times_in_five(items: int, alpha: float) -> None:
    """Measure, shift a repetition by what was told, and count how often the test says so."""
    generator = np.random.default_rng(11)
    ones, found, rounds = np.ones(items), 0, 500
    for _ in range(rounds):
        measured, repeated = generator.normal(0, 0.05, size=(2, items))
        smallest = smallest_mean_difference(measured, ones, alpha=alpha, power=0.8)
        assert smallest is not None
        found += sign_flip_test(repeated + smallest, generator, flips=499) <= alpha
    # With quantiles of the normal instead of Student's, from 0.38 to 0.76.
    assert 0.7 < found / rounds < 0.86


def test_documents_of_unlike_lengths_are_found_too() -> None:
    generator = np.random.default_rng(11)
    sizes, found = generator.integers(500, 2000, size=60).astype(float), 0
    for _ in range(300):
        measured, repeated = sizes * generator.normal(0, 0.05, size=(2, 60))
        smallest = smallest_mean_difference(measured, sizes, alpha=0.05, power=0.8)
        assert smallest is not None
        found += sign_flip_test(repeated + smallest * sizes, generator, flips=499) <= 0.05
    assert 0.73 < found / 300 < 0.87


def test_items_that_do_not_differ_could_show_nothing() -> None:
    ones = np.ones(40)
    assert smallest_mean_difference(np.zeros(40), ones, alpha=0.05, power=0.8) is None
    few = np.array([1.0, -2, 3, -4, 5, -6])
    # Six items have a least p-value of 1/32, five of 1/16: at a stricter level nothing is seen.
    assert smallest_mean_difference(few, np.ones(6), alpha=0.05, power=0.8) is not None
    assert smallest_mean_difference(few, np.ones(6), alpha=0.03, power=0.8) is None
    assert smallest_mean_difference(few[:5], np.ones(5), alpha=0.05, power=0.8) is None


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    # From printed tables.
    [
        (0.975, 5, 2.571),
        (0.975, 11, 2.201),
        (0.995, 7, 3.499),
        (0.9995, 11, 4.437),
        (0.8, 9, 0.883),
    ],
)
def test_students_quantiles_are_those_of_the_tables(
    probability: float, freedom: int, value: float
) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(value, rel=3e-3)


@pytest.mark.parametrize("runs", [1, 2])
def test_a_plain_difference_is_called_however_strict_the_level(runs: int) -> None:
    """By a fixed number of draws, p could not fall to the level that Holm asks for."""
    generator = np.random.default_rng(0)

    def group(name: str, shift: float) -> Group:
        scores = [
            ItemScores(
                task="t",
                metric="m",
                ids=tuple(map(str, range(20))),
                values=row,
                sizes=np.ones(20),
                higher_is_better=True,
            )
            for row in generator.normal(shift, 0.01, size=(runs, 20))
        ]
        return Group(name=name, runs=tuple(scores))

    pairs = [(group("a", 0), group("b", 1000)), (group("a", 0), group("b", 0))]
    found = compare_all(pairs, Statistics(alpha=1e-4))
    assert [one.verdict for one in found] == ["better", "no change seen"]
