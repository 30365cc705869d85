from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.losses.batching import plan_batches

lengths = st.lists(st.integers(0, 300), max_size=60)


@given(lengths, st.integers(1, 1000))
def test_every_sequence_is_in_one_batch_within_the_budget(sizes: list[int], budget: int) -> None:
    batches = plan_batches(sizes, budget)
    assert sorted(i for batch in batches for i in batch) == [i for i, n in enumerate(sizes) if n]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= budget


@given(lengths, st.integers(1, 1000))
def test_the_longest_come_first_and_ties_in_order(sizes: list[int], budget: int) -> None:
    flat = [i for batch in plan_batches(sizes, budget) for i in batch]
    assert flat == sorted(flat, key=lambda i: (-sizes[i], i))


@given(lengths, st.integers(1, 1000))
def test_no_batch_could_have_taken_the_next_sequence(sizes: list[int], budget: int) -> None:
    batches = plan_batches(sizes, budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * sizes[batch[0]] > budget


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch is 0"):
        plan_batches([1], 0)
