"""Matrices in which every block has a slice: put together in rows, equal to whole tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bequest.checkpoints.header import read_header
from bequest.checkpoints.shards import plan_shards, write_shards
from bequest.errors import CheckpointError
from bequest.inheritance import packed
from bequest.inheritance.packed import Packed, Part, plan_packed

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


@pytest.mark.parametrize("rows_at_a_time", [3, 7, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_slices_of_two_tensors_follow_one_another(
    axis: int, dtype: str, rows_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "ROWS_AT_A_TIME", rows_at_a_time)
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": [10, 10], "b": [10, 10]}
    shapes["a"][axis], shapes["b"][axis] = 4 * 5, 3 * 5  # blocks of width 5
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "in.safetensors")
    entries = {entry.name: entry for entry in read_header(tmp_path / "in.safetensors")[0]}
    parts = [Part(entries["a"], 4, (0, 2, 3)), Part(entries["b"], 3, (1,))]
    planned = plan_packed("x", Packed("x", axis), parts, dtype, model="it")
    done: list[int] = []
    write_shards(plan_shards([planned], "5GB"), tmp_path, done.append)
    found = load_file(tmp_path / "model.safetensors")["x"]
    pieces = [tensors["a"].chunk(4, axis)[block] for block in (0, 2, 3)]
    expected = torch.cat([*pieces, tensors["b"].chunk(3, axis)[1]], axis)
    assert torch.equal(found, expected.to(DTYPES[dtype]))
    assert sum(done) == planned.num_bytes


def test_a_tensor_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, 10)}, tmp_path / "in.safetensors")
    (entry,), _ = read_header(tmp_path / "in.safetensors")
    with pytest.raises(CheckpointError, match="does not divide into slices for 4 blocks"):
        plan_packed("x", Packed("x", 1), [Part(entry, 4, (0,))], "F32", model="it")
