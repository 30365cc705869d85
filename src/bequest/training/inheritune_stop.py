"""When a round of Inheritune stops growth: the student is no worse than the reference, surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bequest.errors import InputError
from bequest.training.held_out_losses import HeldOutLosses

_RESAMPLES = 10_000
_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Student - reference loss on the same held-out tokens, in nats a token."""

    mean: float
    """Over all tokens."""
    low: float
    """Lower end of the paired bootstrap interval."""
    high: float
    """Upper end."""

    def closed(self, tolerance: float) -> bool:
        """Whether the student is no worse than the reference by more than the tolerance."""
        return self.high <= tolerance


def paired_gap(
    student: HeldOutLosses, reference: HeldOutLosses, *, confidence: float = 0.95, seed: int = 0
) -> Gap:
    """Return the gap and its percentile interval, held-out documents being resampled.

    A document is what was drawn: its tokens' losses hang together, so it goes in or out whole, with
    both models' losses on it. The gap of a resample is a ratio of sums, as the loss itself is.

    Args:
        student: losses of the student.
        reference: of the reference, on the same tokens.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the resampling.

    Raises:
        InputError: they were not measured on the same documents, or on one document only.
    """
    tokens = student.tokens_per_document
    if not np.array_equal(tokens, reference.tokens_per_document):
        raise InputError(
            "the student and the reference were measured on different held-out tokens; remove out "
            "and run again"
        )
    count = len(tokens)
    if count < 2:
        raise InputError(
            f"held_out gives {count} document, and an interval needs several; give more documents, "
            "or pretrain.sample_by: paragraph"
        )
    nats = student.nats_per_document - reference.nats_per_document
    random = np.random.default_rng(seed)
    gaps = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE)
        gaps.append((drawn @ nats) / (drawn @ tokens))
    low, high = np.quantile(np.concatenate(gaps), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Gap(mean=float(nats.sum() / tokens.sum()), low=float(low), high=float(high))
