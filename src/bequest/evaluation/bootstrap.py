"""What resampling the items says about a paired difference: an interval and a test.

The difference is a ratio of sums, `sum(d) / sum(s)`: `d` is what an item's score changed by and `s`
its size, 1 for a mean and the bytes of a document for bits per byte.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np

from bequest.evaluation.items import Floats

_NORMAL = NormalDist()
_ELEMENTS_AT_ONCE = 2**22
_ENUMERATED_ITEMS = 14
_FEW_VALUES = 64
FEWEST_FLIPS = 9_999
"""Random signs, where not all are tried."""


def resampled(
    differences: Floats, sizes: Floats, resamples: int, generator: np.random.Generator
) -> Floats:
    """Draw the ratio of sums anew, from as many items drawn with replacement, `resamples` times.

    Args:
        differences: of each item.
        sizes: of each item.
        resamples: how many draws.
        generator: whose numbers are used.
    """
    count = len(differences)
    if (sizes == sizes[0]).all():
        # Items of the same value are exchangeable: how often each value comes is all there is.
        values, occurrences = np.unique(differences, return_counts=True)
        if len(values) <= _FEW_VALUES:
            drawn = generator.multinomial(count, occurrences / count, size=resamples)
            means: Floats = (drawn @ values) / (count * sizes[0])
            return means
    found = []
    rows = max(1, _ELEMENTS_AT_ONCE // count)
    for start in range(0, resamples, rows):
        picks = generator.integers(0, count, size=(min(rows, resamples - start), count))
        found.append(differences[picks].sum(1) / sizes[picks].sum(1))
    return np.concatenate(found)


def bca_interval(
    draws: Floats, differences: Floats, sizes: Floats, level: float
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of the ratio of sums.

    Args:
        draws: from `resampled`.
        differences: of each item.
        sizes: of each item.
        level: probability that the interval is meant to hold the true difference with.

    Source: Efron, Better bootstrap confidence intervals (JASA 1987); ties count half, as a metric
    of 0 and 1 makes many.
    """
    ratio = differences.sum() / sizes.sum()
    below = np.count_nonzero(draws < ratio) + np.count_nonzero(draws == ratio) / 2
    if not 0 < below < len(draws):
        return float(draws.min()), float(draws.max())
    bias = _NORMAL.inv_cdf(below / len(draws))
    without = (differences.sum() - differences) / (sizes.sum() - sizes)
    away = without.mean() - without
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread else 0.0

    def place(probability: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(probability)
        return _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))

    low, high = np.quantile(draws, [place((1 - level) / 2), place((1 + level) / 2)])
    return float(low), float(high)


def sign_flip_test(
    differences: Floats, generator: np.random.Generator, flips: int = FEWEST_FLIPS
) -> float:
    """Return the two-sided p-value of the paired permutation test of no difference.

    If the two models were alike, each item's difference might as well have had the other sign. All
    signs are tried for up to 14 items that differ, else `flips` random ones; the signs at hand
    count as one of them, so that p is never 0.

    Source: Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth, Permutation
    p-values should never be zero (2010).
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    seen = abs(changed.sum())
    # Sums of the same numbers in another order differ in their last bits.
    seen -= 1e-9 * np.abs(changed).sum()
    if len(changed) <= _ENUMERATED_ITEMS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(changed))))
        return float((np.abs(signs @ changed) >= seen).mean())
    reached = 1
    rows = max(1, _ELEMENTS_AT_ONCE // len(changed))
    for start in range(0, flips, rows):
        shape = (min(rows, flips - start), len(changed))
        signs = generator.integers(0, 2, size=shape, dtype=np.int8) * 2.0 - 1.0
        reached += int(np.count_nonzero(np.abs(signs @ changed) >= seen))
    return reached / (flips + 1)


def standard_error(differences: Floats, sizes: Floats) -> float:
    """Return the standard error of the ratio of sums, to first order, items being a sample.

    Source: Cochran, Sampling Techniques, 3rd ed., eq. 6.13.
    """
    count = len(differences)
    if count < 2:
        return math.inf
    residuals = differences - differences.sum() / sizes.sum() * sizes
    return math.sqrt(count / (count - 1) * float(residuals @ residuals)) / float(sizes.sum())
