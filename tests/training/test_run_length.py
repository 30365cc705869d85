"""Tokens and steps of a run, against the batches that accelerate's samplers make."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from bequest.training.run_length import RunLength, run_length


def length_of(blocks: int, **changes: Any) -> RunLength:
    asked = {
        "train_batch_size": 8, "world_size": 1, "dataloader_drop_last": False,
        "gradient_accumulation_steps": 4, "max_steps": -1, "num_train_epochs": 8,
    }  # fmt: skip
    arguments: Any = SimpleNamespace(**asked | changes)
    return run_length(
        arguments, 16, training_tokens=16 * blocks + 15, held_out_tokens=9, exact=True
    )


def test_an_incomplete_last_step_counts_for_what_it_reads() -> None:
    length = length_of(100)
    assert length.steps == 8 * 4
    assert length.tokens_trained == 8 * 100 * 16 and length.epochs == 8
    assert length_of(100, dataloader_drop_last=True).tokens_trained == 8 * 96 * 16
    assert length_of(100, max_steps=5).tokens_trained == (100 + 32) * 16


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 12),
)
def test_steps_read_what_the_samplers_give(
    blocks: int, batch: int, processes: int, accumulation: int, drops: bool, steps: int
) -> None:
    plain = BatchSampler(range(blocks), batch, drops)
    shards: list[Any] = [plain]
    if processes > 1:
        shards = [BatchSamplerShard(plain, processes, process) for process in range(processes)]
    micro = [sum(map(len, batches)) for batches in zip(*map(list, shards), strict=True)]
    length = length_of(
        blocks, train_batch_size=batch, world_size=processes, dataloader_drop_last=drops,
        gradient_accumulation_steps=accumulation, max_steps=steps,
    )  # fmt: skip
    assert length.blocks_per_epoch == sum(micro)
    if not micro:
        return
    starts = range(0, len(micro), accumulation)
    epoch = [sum(micro[start : start + accumulation]) for start in starts]
    assert length.steps_per_epoch == len(epoch)
    for done in range(steps + 1):
        read = sum(epoch[step % len(epoch)] for step in range(done))
        assert length.tokens_after(done) == 16 * read
    assert length.tokens_trained == length.tokens_after(steps)


@pytest.mark.parametrize("epochs", [1, 2.5])
def test_part_of_an_epoch_is_whole_steps(epochs: float) -> None:
    assert length_of(100, num_train_epochs=epochs).steps == epochs * 4
