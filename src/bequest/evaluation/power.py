"""What the test of a paired difference could have found: its power, turned round."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from bequest.evaluation.bootstrap import standard_error
from bequest.evaluation.items import Floats

_NORMAL = NormalDist()
_MANY_ITEMS = 50
"""From here on the steps of the test's p-values are too fine to matter."""


def smallest_mean_difference(
    differences: Floats, sizes: Floats, *, alpha: float, power: float
) -> float | None:
    """Return the least true difference that the sign-flip test would find on items like these.

    A multiple of the standard error. The test of n items knows only 2^(n-1) p-values, so that its
    real level lies below `alpha` where items are few; at that level it needs what Student's t test
    needs; and the standard error is itself estimated from the n items, here and by whoever repeats
    the measurement. What the mean difference happened to be does not enter.

    Args:
        differences: of each item.
        sizes: of each item.
        alpha: two-sided level of the test.
        power: probability of finding it.

    Returns:
        The difference, in units of the score; None if so few items differ that not even all of
        them on one side would be found.
    """
    changed = int(np.count_nonzero(differences))
    level = _reached_level(changed, alpha)
    if level == 0:
        return None
    freedom = changed - 1
    needed = standard_errors_needed(student_quantile(1 - level / 2, freedom), freedom, power)
    return None if needed is None else needed * standard_error(differences, sizes)


def _reached_level(count: int, alpha: float) -> float:
    """The largest p-value, not above `alpha`, that the test of so many items can give."""
    if count > _MANY_ITEMS:
        return alpha
    ways = 2.0 ** (count - 1)
    return math.floor(alpha * ways) / ways


def standard_errors_needed(quantile: float, freedom: float, power: float) -> float | None:
    """Return how many standard errors, as they are estimated, a difference must have to be found.

    A test that calls `Z + c > t` standard errors a difference finds one of `c` estimated standard
    errors if `Z + c S > t S'`: Z is normal, S and S' are the estimates here and in a repetition,
    each with mean `c4` and variance `1 - c4^2` around a true error of 1. Taken as normal, that has
    the probability `power` where

        (c - t) c4 = z(power) sqrt(1 + (c^2 + t^2) (1 - c4^2)).

    Args:
        quantile: t, from which on the test calls a difference, in standard errors.
        freedom: degrees of freedom of the standard error.
        power: probability of finding it.

    Returns:
        c; None if the standard error is so uncertain that none is found with this power.
    """
    t, z = quantile, _NORMAL.inv_cdf(power)
    c4 = math.sqrt(2 / freedom) * math.exp(
        math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    )
    scatter = z * z * (1 - c4 * c4)
    a, b, c = c4 * c4 - scatter, t * c4 * c4, t * t * (c4 * c4 - scatter) - z * z
    if a <= 0:
        return None
    # The larger root for a power above one half, the smaller below.
    return (b + math.copysign(math.sqrt(b * b - a * c), z)) / a


def student_quantile(probability: float, freedom: float) -> float:
    """Student's t by its distance from the normal; Abramowitz and Stegun, 26.7.5."""
    x = _NORMAL.inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom**order for order, term in enumerate(terms, start=1))
