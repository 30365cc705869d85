"""Resampling against enumeration of all resamples and signs, and by how often it is right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.evaluation.bootstrap import (
    bca_interval,
    resampled,
    sign_flip_test,
    standard_error,
)
from bequest.evaluation.items import Floats

DIFFERENCES = np.array([0.5, -0.2, 0.9, 0.1, -0.4])
SIZES = np.array([1.0, 3.0, 2.0, 5.0, 1.0])


def all_resamples(differences: Floats, sizes: Floats) -> Floats:
    """The ratio for each of the n ** n ways to draw n items."""
    count = len(differences)
    picks = np.array(list(itertools.product(range(count), repeat=count)))
    ratios: Floats = differences[picks].sum(1) / sizes[picks].sum(1)
    return ratios


@pytest.mark.parametrize("sizes", [SIZES, np.ones(5)], ids=["ratio", "mean"])
def test_draws_are_those_of_all_resamples(sizes: Floats) -> None:
    draws = resampled(DIFFERENCES, sizes, 200_000, np.random.default_rng(0))
    exact = all_resamples(DIFFERENCES, sizes)
    assert draws.mean() == pytest.approx(exact.mean(), abs=2e-3)
    assert draws.std() == pytest.approx(exact.std(), rel=5e-3)
    levels = [0.025, 0.2, 0.5, 0.8, 0.975]
    assert np.quantile(draws, levels) == pytest.approx(np.quantile(exact, levels), abs=1e-2)


def test_many_different_values_are_drawn_alike() -> None:
    """More than 64 values of equal size take the other way; both are draws of the mean."""
    differences = np.random.default_rng(1).normal(size=100)
    draws = resampled(differences, np.full(100, 2.0), 20_000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(differences.mean() / 2, abs=2e-3)
    assert draws.std() == pytest.approx(differences.std() / 20, rel=0.03)


def slow_bca(draws: Floats, differences: Floats, sizes: Floats) -> tuple[float, float]:
    """Efron and Tibshirani, An Introduction to the Bootstrap, eq. 14.9 to 14.15, item by item."""
    from statistics import NormalDist

    normal = NormalDist()
    ratio = sum(differences) / sum(sizes)
    share = np.mean([float(d < ratio) + 0.5 * float(d == ratio) for d in draws])
    bias = normal.inv_cdf(float(share))
    left_out = []
    for row in range(len(differences)):
        rest = [other for other in range(len(differences)) if other != row]
        left_out.append(sum(differences[rest]) / sum(sizes[rest]))
    mean = np.mean(left_out)
    acceleration = sum((mean - one) ** 3 for one in left_out) / (
        6 * sum((mean - one) ** 2 for one in left_out) ** 1.5
    )
    ends = []
    for level in (0.025, 0.975):
        shifted = bias + normal.inv_cdf(level)
        ends.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return tuple(np.quantile(draws, ends).tolist())


def test_bca_equals_the_textbook() -> None:
    draws = all_resamples(DIFFERENCES, SIZES)
    assert bca_interval(draws, DIFFERENCES, SIZES, 0.95) == pytest.approx(
        slow_bca(draws, DIFFERENCES, SIZES)
    )


def enumerated_signs(differences: Floats) -> float:
    seen = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([total >= seen - 1e-9 for total in sums]))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_few_items_try_every_sign(values: list[int]) -> None:
    differences = np.array(values, dtype=float)
    found = sign_flip_test(differences, np.random.default_rng(0))
    assert found == pytest.approx(enumerated_signs(differences))


def test_many_items_try_random_signs() -> None:
    """Fifteen items are the first that are not enumerated."""
    differences = np.random.default_rng(3).normal(0.4, 1.0, size=15)
    found = sign_flip_test(differences, np.random.default_rng(0))
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=15)))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert found == pytest.approx(float(exact), abs=0.015)
    assert sign_flip_test(np.ones(500), np.random.default_rng(0)) == 1e-4


def test_equal_models_are_no_surprise() -> None:
    assert sign_flip_test(np.zeros(50), np.random.default_rng(0)) == 1.0


def test_the_standard_error_is_that_of_resampling() -> None:
    generator = np.random.default_rng(5)
    sizes = generator.integers(500, 5000, size=300).astype(float)
    differences = sizes * generator.normal(0.02, 0.1, size=300)
    draws = resampled(differences, sizes, 20_000, generator)
    assert standard_error(differences, sizes) == pytest.approx(draws.std(), rel=0.03)


@pytest.mark.parametrize("kind", ["documents", "graded", "right or wrong"])
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str) -> None:
    """Of 600 samples with a known true difference, about 95 % of the intervals hold it."""
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(600):
        if kind == "documents":
            sizes = generator.lognormal(7, 0.5, size=60)
            truth = 0.02
            differences = sizes * (generator.gamma(2.0, 0.02, size=60) - 0.04 + truth)
        elif kind == "graded":
            sizes, truth = np.ones(80), 0.5
            differences = generator.exponential(0.5, size=80)
        else:
            sizes, truth = np.ones(150), 0.1
            differences = generator.choice([1.0, 0.0, -1.0], p=[0.2, 0.7, 0.1], size=150)
        draws = resampled(differences, sizes, 1000, generator)
        low, high = bca_interval(draws, differences, sizes, 0.95)
        held += low <= truth <= high
    # Two points of standard error 0.9 each below, and the bootstrap's own lack at this size.
    assert 0.92 <= held / 600 <= 0.98
