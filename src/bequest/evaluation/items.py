"""What one model scored on the items of one task: the rows that two models are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemScores:
    """One model's results on one task, item by item.

    The score is `sum(values) / sum(sizes)`: the mean of a metric where every size is 1, and bits
    per byte where `values` are bits and `sizes` bytes.

    Raises:
        InputError: the columns differ in length, there is no item, an id comes twice, a value is
            not finite, or a size is not positive.
    """

    task: str
    """Name of the task."""
    metric: str
    """What the score is, such as "acc" or "bits per byte"."""
    ids: tuple[str, ...]
    """What each item is known by, in every model's results."""
    values: Floats
    """What the model scored on each item."""
    sizes: Floats
    """What each item counts for: 1, or its bytes."""
    higher_is_better: bool
    """Whether a larger score is the better one."""

    def __post_init__(self) -> None:
        place = f"task {self.task}"
        if not len(self.ids) == len(self.values) == len(self.sizes):
            raise InputError(
                f"{place} has {len(self.ids)} ids, {len(self.values)} values and "
                f"{len(self.sizes)} sizes; give one of each an item"
            )
        if not self.ids:
            raise InputError(f"{place} has no items; leave it out, or give it some")
        if len(set(self.ids)) < len(self.ids):
            raise InputError(f"{place} has several items of one id; number them")
        if not np.isfinite(self.values).all() or not (self.sizes > 0).all():
            raise InputError(
                f"{place} has a value of {self.metric} that is not finite, or an item of no size"
            )

    @property
    def score(self) -> float:
        """The score over all items."""
        return float(self.values.sum() / self.sizes.sum())

    @property
    def is_binary(self) -> bool:
        """Whether every item is right or wrong and counts the same."""
        return bool(np.isin(self.values, (0.0, 1.0)).all() and (self.sizes == 1).all())


def in_order_of(scores: ItemScores, reference: ItemScores) -> ItemScores:
    """Bring a model's items into the order of another model's.

    Raises:
        InputError: they are not the same items of the same task.
    """
    if (scores.task, scores.metric) != (reference.task, reference.metric):
        raise InputError(
            f"{scores.metric} of {scores.task} cannot be compared with {reference.metric} of "
            f"{reference.task}; compare the same metric of the same task"
        )
    rows = {id_: row for row, id_ in enumerate(scores.ids)}
    strangers = [*(id_ for id_ in reference.ids if id_ not in rows), *(rows.keys() - reference.ids)]
    if strangers:
        raise InputError(
            f"items of task {scores.task} do not pair: {len(strangers)} are not in both models' "
            f"results, such as {strangers[0]!r}; evaluate both on the same items"
        )
    order = [rows[id_] for id_ in reference.ids]
    if not np.array_equal(scores.sizes[order], reference.sizes):
        raise InputError(
            f"items of task {scores.task} do not pair: the same item has another size in another "
            "model's results; evaluate both on the same items"
        )
    return ItemScores(
        task=scores.task,
        metric=scores.metric,
        ids=reference.ids,
        values=scores.values[order],
        sizes=reference.sizes,
        higher_is_better=scores.higher_is_better,
    )


def require_finite(is_finite: Sequence[bool] | NDArray[np.bool_], *, model: str, task: str) -> None:
    """Refuse a model that gave no numbers: it has no score, and must not come out as any.

    Args:
        is_finite: for each item, whether what the model made of it is a number.
        model: what the model is called.
        task: what the items are called.

    Raises:
        InputError: an item has no number.
    """
    broken = np.flatnonzero(~np.asarray(is_finite, dtype=bool))
    if len(broken):
        raise InputError(
            f"model {model} gives numbers that are not finite on {len(broken)} of "
            f"{len(is_finite)} items of {task}, the first being number {broken[0] + 1}; try another "
            "dtype, or leave the model out"
        )


def numbered(keys: Sequence[str]) -> list[str]:
    """Make keys that come several times distinct by their occurrence: a, b, a#2.

    Args:
        keys: in the order in which every model meets them.
    """
    seen: dict[str, int] = {}
    found = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        found.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return found
