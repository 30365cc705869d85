"""Weights that a user brings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bequest.errors import InputError


def checked_weights(name: str, values: ArrayLike) -> NDArray[np.float32]:
    """Return weights of samples as an array, if they are weights.

    Args:
        name: what the message calls them.
        values: N numbers.

    Raises:
        InputError: they are no row of finite numbers of at least 0, or none is above 0.
    """
    try:
        weights = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not hold numbers; give one weight a row") from error
    if weights.ndim != 1:
        raise InputError(f"{name} has the shape {weights.shape}; give one weight a row")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise InputError(
            f"{name}[{wrong[0]}] is {weights[wrong[0]]}; weights must be finite and at least 0"
        )
    if not weights.any():
        raise InputError(f"{name} holds no weight above 0; nothing would be learned")
    return weights
