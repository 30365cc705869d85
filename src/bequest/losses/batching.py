"""Which sequences share a batch: sorted by length, within a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group sequences of like length into batches that hold at most `tokens_per_batch` tokens.

    A pure function of its arguments, so every process that calls it makes the same plan. The
    longest sequences come first: what does not fit into memory fails at once, and the last batches,
    which end the wait for the slowest process, are the cheapest.

    Args:
        lengths: The number of tokens of each sequence; those of length 0 are in no batch.
        tokens_per_batch: The most tokens of a batch, padding included; a sequence that is longer
            than that makes a batch of its own.

    Returns:
        For each batch the indices into `lengths` of its sequences, the longest first.

    Raises:
        ValueError: If `tokens_per_batch` is not positive.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1")
    # Equal lengths keep their order: `sorted` is stable, so the plan does not depend on the run.
    longest_first = sorted(
        (index for index, length in enumerate(lengths) if length > 0), key=lambda i: -lengths[i]
    )
    batches: list[list[int]] = []
    for index in longest_first:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
