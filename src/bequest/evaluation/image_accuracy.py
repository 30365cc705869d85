"""How often a classifier of images is right: on its own classes, on groups of them, on hard ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def is_right(logits: Floats, labels: NDArray[np.int64]) -> Flags:
    """Return for each image whether its label has the largest logit.

    Args:
        logits: shape (N, C).
        labels: N class numbers.
    """
    right: Flags = logits.argmax(axis=1) == labels
    return right


def check_groups(groups: Sequence[Sequence[int]], classes: int) -> None:
    """Refuse groups of classes that there are not.

    Args:
        groups: the class numbers of each group.
        classes: how many there are.

    Raises:
        InputError: a group is empty or names a class that there is not.
    """
    for number, group in enumerate(groups):
        wrong = [index for index in group if not 0 <= index < classes]
        if wrong or not group:
            raise InputError(
                f"group {number} holds {wrong[0] if wrong else 'no class'}; name classes from 0 to "
                f"{classes - 1}"
            )


def group_scores(logits: Floats, groups: Sequence[Sequence[int]]) -> Floats:
    """Add up the probabilities of each group of classes, shape (N, groups).

    So a classifier of many fine classes is tested on few coarse ones without training a head.

    Args:
        logits: shape (N, C).
        groups: the class numbers of each group.

    Raises:
        InputError: a group is empty or names a class that there is not.
    """
    check_groups(groups, logits.shape[1])
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return np.stack([probabilities[:, list(group)].sum(axis=1) for group in groups], axis=1)


def cross_entropies(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the loss of each image in nats.

    Args:
        logits: shape (N, C).
        labels: N class numbers.
    """
    top = logits.max(axis=1)
    total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    losses: Floats = total - logits[np.arange(len(labels)), labels]
    return losses


def hardest(losses: Floats, share: float = 0.1) -> Flags:
    """Mark the images with the largest losses.

    Args:
        losses: of N images; of equal ones, the later are taken.
        share: of the images, rounded, at least one.
    """
    count = max(1, round(share * len(losses)))
    marked = np.zeros(len(losses), dtype=bool)
    marked[np.argsort(losses, kind="stable")[-count:]] = True
    return marked
