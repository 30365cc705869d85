"""The exact test for two models on items that are right or wrong, and what it can find.

Only items that exactly one of the two models gets right say which is better. If they are alike,
such an item is either's with probability 1/2.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from bequest.evaluation.items import Floats

_NORMAL = NormalDist()
_MANY_CHANGED = 1000
"""Above so many expected changed items the normal approximation stands in for the exact power."""
_NEGLIGIBLE = 1e-12
_PRECISION = 1e-4


def mcnemar(won: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Computed in whole numbers: no rounding but that of the result.

    Args:
        won: items that the second model alone gets right.
        lost: items that the first model alone gets right.

    Source: McNemar (1947); the exact form is the sign test of the changed items.
    """
    changed = won + lost
    ways, total = 1, 0
    for rarer in range(min(won, lost) + 1):
        total += ways
        ways = ways * (changed - rarer) // (rarer + 1)
    return float(min(1.0, 2 * total / 2**changed))


def unchanged_interval(num_items: int, level: float) -> tuple[float, float]:
    """Return the interval of the difference where not one item changed, of right-or-wrong items.

    A resampled zero is always zero, which would promise too much: the true share of items that
    change one way is, by Clopper and Pearson, up to `1 - ((1 - level) / 2) ** (1 / num_items)`.
    """
    most = 1 - ((1 - level) / 2) ** (1 / num_items)
    return -most, most


def power_of_mcnemar(num_items: int, changed: float, difference: float, alpha: float) -> float:
    """Return the probability that the exact test finds a true difference.

    Args:
        num_items: items of the test.
        changed: probability that an item is right under one model only.
        difference: by how much more often under the second; at most `changed`.
        alpha: two-sided level of the test.
    """
    share = (changed + difference) / (2 * changed) if changed else 0.5
    found = 0.0
    of_counts = _probabilities(num_items, changed)
    for count in np.flatnonzero(of_counts > _NEGLIGIBLE):
        least = _critical(int(count), alpha)
        if least > count:
            continue
        wins = _probabilities(int(count), share)
        found += of_counts[count] * (wins[least:].sum() + wins[: count - least + 1].sum())
    return float(found)


def smallest_share(num_items: int, changed: int, *, alpha: float, power: float) -> float | None:
    """Return the least true difference in the share of right items that the test would have found.

    As many items change as did change, or as the difference itself needs.

    Args:
        num_items: items of the test.
        changed: how many of them exactly one model gets right.
        alpha: two-sided level of the test.
        power: probability of finding it.

    Returns:
        The difference; None if not even a change of every item would be found.
    """
    rate = changed / num_items

    def finds(difference: float) -> bool:
        likely = max(rate, difference)
        if num_items * likely > _MANY_CHANGED:
            return _normal_power(num_items, likely, difference, alpha) >= power
        return power_of_mcnemar(num_items, likely, difference, alpha) >= power

    low, high = 0.0, min(1.0, 8 / num_items)
    while high < 1 and not finds(high):
        low, high = high, min(1.0, 2 * high)
    if not finds(high):
        return None
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


def _normal_power(num_items: int, changed: float, difference: float, alpha: float) -> float:
    """Connor (Biometrics 1987), for many changed items."""
    level = _NORMAL.inv_cdf(1 - alpha / 2)
    spread = changed - difference**2
    if spread <= 0:
        return 1.0
    return _NORMAL.cdf(
        (math.sqrt(num_items) * difference - level * math.sqrt(changed)) / math.sqrt(spread)
    )


def _critical(changed: int, alpha: float) -> int:
    """The least number of won items, of `changed`, that the test calls a difference."""
    tail = np.cumsum(_probabilities(changed, 0.5)[::-1])[::-1]
    # The tail at 0 is 1, and falls.
    return int(np.count_nonzero(2 * tail > alpha * (1 + 1e-12)))


def _probabilities(count: int, share: float) -> Floats:
    """Binomial probabilities of 0 to `count`."""
    if share <= 0 or share >= 1 or count == 0:
        certain = np.zeros(count + 1)
        certain[count if share >= 1 else 0] = 1.0
        return certain
    ways = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    hits = np.arange(count + 1)
    logs = ways[count] - ways - ways[::-1] + hits * math.log(share)
    found: Floats = np.exp(logs + hits[::-1] * math.log1p(-share))
    return found
