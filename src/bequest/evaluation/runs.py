"""Differences between methods that were trained several times: seeds are the outer level.

That one trained model beats another says little of the methods that made them, if another seed
would have turned it round. So the trained runs are a sample too, beside the items that all of them
are read on. The items are resampled as everywhere; so few runs cannot be, their mean is drawn from
Student's t instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bequest.evaluation.bootstrap import resampled, standard_error
from bequest.evaluation.items import Floats, ItemScores
from bequest.evaluation.power import standard_errors_needed


@dataclass(frozen=True, kw_only=True, eq=False)
class RunDifference:
    """The difference between the means of two groups of runs."""

    draws: Floats
    """What it might as well have been, runs and items being samples."""
    difference: float
    """What it was."""
    standard_error: float
    """Its standard error, of runs and items together."""
    freedom: float
    """Degrees of freedom of the standard error."""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the central part of the draws that holds `level` of them."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Twice the share of draws on the other side of 0; never 0."""
        rarer = min(np.count_nonzero(self.draws <= 0), np.count_nonzero(self.draws >= 0))
        return min(1.0, 2 * (int(rarer) + 1) / (len(self.draws) + 1))

    def smallest(self, *, alpha: float, power: float) -> float | None:
        """Return the least true difference that a repetition would find with this power.

        None if there is none, so little do few runs say of how much runs scatter.
        """
        half_width = float(np.quantile(np.abs(self.draws - self.difference), 1 - alpha))
        if not self.standard_error:
            return half_width
        quantile = half_width / self.standard_error
        needed = standard_errors_needed(quantile, self.freedom, power)
        return None if needed is None else needed * self.standard_error


def difference_of_runs(
    before: Sequence[ItemScores],
    after: Sequence[ItemScores],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> RunDifference:
    """Compare the mean score of some runs with that of others, on the same items.

    The item part is the bootstrap of each item's mean difference; the part of each group of two
    runs or more is `s / sqrt(n) * t(n - 1)`, s being the standard deviation of its runs' scores. A
    single run counts as the fixed model that it is, such as the pre-trained one.

    Args:
        before: each run's items, all in one order.
        after: likewise.
        resamples: how many draws.
        generator: whose numbers are used.

    Source: items and runs are crossed random effects, resampled independently of each other (Owen,
    The pigeonhole bootstrap, 2007); Student's t for the few runs, as in Behrens and Fisher.
    """
    sizes = before[0].sizes
    each = np.mean([run.values for run in after], axis=0)
    each = each - np.mean([run.values for run in before], axis=0)
    draws = resampled(each, sizes, resamples, generator)
    variance = standard_error(each, sizes) ** 2
    uncertain = variance**2 / (len(sizes) - 1)
    for runs, sign in ((before, -1.0), (after, 1.0)):
        if len(runs) > 1:
            scores = np.array([run.score for run in runs])
            spread = float(scores.std(ddof=1)) / len(runs) ** 0.5
            draws = draws + sign * spread * generator.standard_t(len(runs) - 1, resamples)
            variance += spread**2
            uncertain += spread**4 / (len(runs) - 1)
    return RunDifference(
        draws=draws,
        difference=float(each.sum() / sizes.sum()),
        standard_error=variance**0.5,
        # Welch and Satterthwaite.
        freedom=variance**2 / uncertain if uncertain else float(len(sizes) - 1),
    )
