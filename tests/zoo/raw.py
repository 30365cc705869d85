"""Tensors of a folder as raw bytes, read without bequest and without the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import torch


class Raw(NamedTuple):
    """One tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_safetensors(path: Path) -> dict[str, Raw]:
    """Read one file by the published format: a length, a JSON header, the bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    start = 8 + length
    return {
        name: Raw(
            entry["dtype"],
            tuple(entry["shape"]),
            content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def raw_tensor(tensor: torch.Tensor) -> Raw:
    """The bytes of a tensor in memory, row by row."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return Raw(_SAFETENSORS_NAMES[tensor.dtype], tuple(tensor.shape), data)


def read_folder(folder: Path) -> dict[str, Raw]:
    """All tensors of a checkpoint: every shard named by its index, or its one file."""
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.exists():
            weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
            merged: dict[str, Raw] = {}
            for name in sorted(set(weight_map.values())):
                shard = _read_file(folder / name)
                assert not merged.keys() & shard.keys(), f"{name} repeats tensors"
                assert {key for key, file in weight_map.items() if file == name} == shard.keys()
                merged |= shard
            return merged
    (only,) = [*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")]
    return _read_file(only)


def _read_file(path: Path) -> dict[str, Raw]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: raw_tensor(tensor) for name, tensor in state.items()}
