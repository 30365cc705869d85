"""Accuracy of classifiers of images against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from bequest.errors import InputError
from bequest.evaluation.image_accuracy import (
    cross_entropies,
    group_scores,
    hardest,
    is_right,
)

LOGITS = np.random.default_rng(0).normal(size=(40, 7)) * 30
LABELS = np.random.default_rng(1).integers(7, size=40)


def test_losses_are_torchs() -> None:
    wanted = functional.cross_entropy(
        torch.from_numpy(LOGITS), torch.from_numpy(LABELS), reduction="none"
    )
    np.testing.assert_allclose(cross_entropies(LOGITS, LABELS), wanted.numpy(), atol=1e-12)


def test_groups_add_probabilities_up() -> None:
    groups = [[0, 2], [6], [1, 3, 4]]
    probabilities = torch.softmax(torch.from_numpy(LOGITS), dim=1).numpy()
    found = group_scores(LOGITS, groups)
    for number, group in enumerate(groups):
        np.testing.assert_allclose(found[:, number], sum(probabilities[:, i] for i in group))
    singles = group_scores(LOGITS, [[i] for i in range(7)])
    np.testing.assert_array_equal(is_right(singles, LABELS), is_right(LOGITS, LABELS))


@pytest.mark.parametrize("groups", [[[7]], [[-1]], [[0], []]])
def test_groups_of_nothing_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(InputError, match="name classes from 0 to 6"):
        group_scores(LOGITS, groups)


def test_hardest_tenth() -> None:
    losses = np.random.default_rng(2).exponential(size=50)
    marked = hardest(losses)
    assert marked.sum() == 5
    assert losses[marked].min() >= losses[~marked].max()
    assert hardest(np.zeros(3)).sum() == 1
