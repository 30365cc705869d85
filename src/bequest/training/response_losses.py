"""From losses at every position to losses of responses: what a score file says of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bequest.weighting.score_file import row_hash

IGNORED = -100
"""The label of a token that is not predicted; stated here too, because importing it takes torch."""

Rows = Sequence[Any]
"""An int32 array for each sample."""


def is_response(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which of a sample's tokens are predicted; the first never is."""
    wanted: NDArray[np.bool_] = labels != IGNORED
    wanted[:1] = False
    return wanted


def response_losses(
    per_position: Sequence[NDArray[np.float32]], labels: Rows
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Return the losses of each sample's response tokens, and their mean, NaN where there is none.

    Args:
        per_position: For each sample its losses, as `token_losses` gives them.
        labels: For each sample its labels, unshifted.
    """
    tokens = [own[is_response(row)] for own, row in zip(per_position, labels, strict=True)]
    means = [own.mean(dtype=np.float64) if len(own) else np.nan for own in tokens]
    return tokens, np.array(means, dtype=np.float32)


def row_hashes(input_ids: Rows, labels: Rows) -> NDArray[np.str_]:
    """Name each sample as the score file does."""
    return np.array([row_hash(*row) for row in zip(input_ids, labels, strict=True)], dtype=np.str_)
