"""Plans of weight files: what is written is what was planned, and safetensors reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bequest.checkpoints.header import read_header
from bequest.checkpoints.shards import (
    PlannedTensor,
    parse_size,
    plan_shards,
    target_dtype,
    write_shards,
)
from bequest.errors import InputError


def planned(path: Path, dtype: str | None = None) -> list[PlannedTensor]:
    return [
        PlannedTensor(
            name=f"new.{entry.name}",
            dtype=target_dtype(entry.dtype, dtype, entry.name),
            shape=entry.shape,
            source=entry,
        )
        for entry in read_header(path)[0]
    ]


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "half": torch.randn(5, 3, generator=generator).half(),
        "brain": torch.randn(7, generator=generator).bfloat16(),
        "eight": torch.randn(9, generator=generator).to(torch.float8_e4m3fn),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "count": torch.arange(3),
    }


@pytest.mark.parametrize("max_shard_size", [1, 20, 64, "5GB"])
def test_bytes_arrive_whatever_the_shards(
    tensors: dict[str, torch.Tensor], max_shard_size: str | int, tmp_path: Path
) -> None:
    save_file(tensors, str(tmp_path / "source.safetensors"))
    shards = plan_shards(planned(tmp_path / "source.safetensors"), max_shard_size)
    out = tmp_path / "out"
    out.mkdir()
    told: list[int] = []
    write_shards(shards, out, told.append)
    found: dict[str, torch.Tensor] = {}
    for shard in shards:
        found |= load_file(str(out / shard.file_name))
        assert (out / shard.file_name).stat().st_size == len(shard.header) + shard.num_bytes
    assert found.keys() == {f"new.{name}" for name in tensors}
    for name, tensor in tensors.items():
        got = found[f"new.{name}"]
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        assert torch.equal(got.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert sum(told) == sum(shard.num_bytes for shard in shards)
    if len(shards) > 1:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {t.name: s.file_name for s in shards for t in s.tensors}
        assert index["metadata"]["total_size"] == sum(told)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20), limit=st.integers(1, 120))
def test_no_shard_is_larger_than_it_may_be(sizes: list[int], limit: int) -> None:
    tensors = [
        PlannedTensor(name=str(n), dtype="U8", shape=(size,), source=lambda: np.zeros(0))
        for n, size in enumerate(sizes)
    ]
    shards = plan_shards(tensors, limit)
    assert [t.name for s in shards for t in s.tensors] == [t.name for t in tensors]
    for shard in shards:
        assert shard.num_bytes <= limit or len([t for t in shard.tensors if t.num_bytes]) == 1


def test_elements_are_aligned(tmp_path: Path) -> None:
    save_file({"b": torch.ones(3, dtype=torch.uint8)}, str(tmp_path / "a.safetensors"))
    save_file({"f": torch.ones(3)}, str(tmp_path / "b.safetensors"))
    both = planned(tmp_path / "a.safetensors") + planned(tmp_path / "b.safetensors")
    write_shards(plan_shards(both, "1GB"), tmp_path, lambda _: None)
    for entry in read_header(tmp_path / "model.safetensors")[0]:
        assert entry.start % (4 if entry.dtype == "F32" else 1) == 0


def test_conversion_while_streaming_equals_torch(tmp_path: Path) -> None:
    # More elements than are converted at a time, and not a multiple of them.
    weight = torch.randn(3 * 2**20 + 17, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight}, str(tmp_path / "source.safetensors"))
    shards = plan_shards(planned(tmp_path / "source.safetensors", "bfloat16"), "5GB")
    write_shards(shards, tmp_path, lambda _: None)
    assert torch.equal(
        load_file(str(tmp_path / "model.safetensors"))["new.weight"], weight.bfloat16()
    )


def test_quantized_weights_are_not_converted() -> None:
    with pytest.raises(InputError, match="F8_E4M3"):
        target_dtype("F8_E4M3", "bfloat16", "w")
    assert target_dtype("F8_E4M3", None, "w") == "F8_E4M3"
    assert target_dtype("I64", "bfloat16", "w") == "I64"
    assert target_dtype("F32", "bfloat16", "a.gate.bias", ("gate",)) == "F32"
    assert target_dtype("F32", "bfloat16", "a.gates.bias", ("gate",)) == "BF16"


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1500000), ("7", 7), (12, 12), ("3B", 3)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 bananas", "-1GB", 0, "nan", "inf", "1e999GB"])
def test_sizes_that_are_none(text: str | int) -> None:
    with pytest.raises(InputError, match="max_shard_size"):
        parse_size(text)
