"""The exact test and its power against plain enumeration of everything that can happen."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.evaluation.mcnemar import (
    mcnemar,
    power_of_mcnemar,
    smallest_share,
    unchanged_interval,
)


def enumerated_p(won: int, lost: int) -> float:
    """The share of all ways to deal out the changed items that are as lopsided or more."""
    changed = won + lost
    if not changed:
        return 1.0
    extreme = sum(
        abs(2 * sum(way) - changed) >= abs(won - lost)
        for way in itertools.product((0, 1), repeat=changed)
    )
    return extreme / 2**changed


@pytest.mark.parametrize("won", range(7))
@pytest.mark.parametrize("lost", range(7))
def test_p_equals_enumeration(won: int, lost: int) -> None:
    assert mcnemar(won, lost) == pytest.approx(enumerated_p(won, lost), abs=1e-15)


@given(won=st.integers(0, 400), lost=st.integers(0, 400))
def test_p_is_symmetric_and_falls_with_the_distance(won: int, lost: int) -> None:
    p_value = mcnemar(won, lost)
    assert 0 <= p_value <= 1
    assert p_value == mcnemar(lost, won)
    if won > lost:
        assert mcnemar(won + 1, lost) < p_value or p_value == 1


def test_many_changed_items_are_no_trouble() -> None:
    assert mcnemar(5000, 5000) == 1.0
    assert 0 <= mcnemar(9000, 1000) < 1e-300
    assert mcnemar(5100, 4900) == pytest.approx(0.0466, abs=0.001)


def enumerated_power(items: int, changed: Fraction, difference: Fraction, alpha: float) -> float:
    won_share, lost_share = (changed + difference) / 2, (changed - difference) / 2
    total = Fraction(0)
    for won in range(items + 1):
        for lost in range(items + 1 - won):
            if enumerated_small_p(won, lost) <= alpha:
                ways = comb(items, won) * comb(items - won, lost)
                total += (
                    ways * won_share**won * lost_share**lost * (1 - changed) ** (items - won - lost)
                )
    return float(total)


def enumerated_small_p(won: int, lost: int) -> float:
    changed = won + lost
    tail = sum(comb(changed, k) for k in range(min(won, lost) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**changed)))


@pytest.mark.parametrize("items", [6, 11, 17])
@pytest.mark.parametrize(
    ("changed", "difference"), [("1/2", "1/4"), ("1", "1"), ("2/5", "2/5"), ("1/3", "0")]
)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_equals_enumeration(items: int, changed: str, difference: str, alpha: float) -> None:
    rate, shift = Fraction(changed), Fraction(difference)
    expected = enumerated_power(items, rate, shift, alpha)
    found = power_of_mcnemar(items, float(rate), float(shift), alpha)
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("items", "changed"), [(20, 2), (50, 0), (100, 10), (100, 60), (1500, 90)])
def test_the_smallest_share_is_found_and_hardly_less_is_not(items: int, changed: int) -> None:
    found = smallest_share(items, changed, alpha=0.05, power=0.8)
    assert found is not None

    def power(difference: float) -> float:
        return power_of_mcnemar(items, max(changed / items, difference), difference, 0.05)

    assert power(found) >= 0.8
    assert power(found * 0.999) < 0.8


def test_too_few_items_could_show_nothing() -> None:
    # Five of five on one side: p = 2 / 32.
    assert smallest_share(5, 0, alpha=0.05, power=0.8) is None
    assert smallest_share(6, 0, alpha=0.05, power=0.8) is not None
    assert smallest_share(6, 0, alpha=0.01, power=0.8) is None


def test_the_normal_approximation_meets_the_exact_power() -> None:
    """Just above 1000 changed items the one takes over from the other."""
    exact = smallest_share(2500, 995, alpha=0.05, power=0.8)
    normal = smallest_share(2500, 1005, alpha=0.05, power=0.8)
    assert exact is not None and normal is not None
    assert normal == pytest.approx(exact, rel=0.03)


def test_where_nothing_changed_the_interval_is_that_of_clopper_and_pearson() -> None:
    low, high = unchanged_interval(100, 0.95)
    assert low == -high
    # The largest rate at which 100 of 100 unchanged items are not yet surprising.
    assert (1 - high) ** 100 == pytest.approx(0.025)
