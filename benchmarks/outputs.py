"""Check what a contender wrote: the kept blocks, each tensor equal to its source's, byte for byte.

Reads headers with the standard library, so that neither bequest nor a peer judges itself.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchmarkError

_CHUNK_BYTES = 1 << 20
_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of a checkpoint and where its bytes lie."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    """Extents, outermost first."""
    file: Path
    """The file that holds it."""
    start: int
    """Its first byte in the file."""
    num_bytes: int
    """Bytes it takes."""


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Read the headers of a folder's safetensors files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            found[name] = Stored(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                file=file,
                start=8 + length + start,
                num_bytes=end - start,
            )
    return found


def count_parameters(folder: Path) -> int:
    """Return the number of stored elements."""
    return sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values())


def check_first_blocks(source: Path, out: Path, num_layers: int) -> None:
    """Raise unless `out` holds the first `num_layers` blocks of `source` and all that is no block.

    Raises:
        BenchmarkError: the configuration, a tensor or a byte is not as it must be.
    """
    depth = json.loads((out / "config.json").read_text())["num_hidden_layers"]
    if depth != num_layers:
        raise BenchmarkError(f"{out} says {depth} layers, not {num_layers}")
    kept = {
        name: tensor
        for name, tensor in stored_tensors(source).items()
        if not (block := _BLOCK.search(name)) or int(block[1]) < num_layers
    }
    written = stored_tensors(out)
    if written.keys() != kept.keys():
        raise BenchmarkError(f"{out}: keys differ: {sorted(written.keys() ^ kept.keys())[:3]}")
    for name, tensor in kept.items():
        if not _equal(tensor, written[name]):
            raise BenchmarkError(f"{out}: {name} differs from its source")


def _equal(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left, right = bytearray(_CHUNK_BYTES), bytearray(_CHUNK_BYTES)
    with one.file.open("rb", buffering=0) as first, other.file.open("rb", buffering=0) as second:
        first.seek(one.start)
        second.seek(other.start)
        remaining = one.num_bytes
        while remaining:
            count = min(remaining, _CHUNK_BYTES)
            views = memoryview(left)[:count], memoryview(right)[:count]
            if first.readinto(views[0]) != count or second.readinto(views[1]) != count:
                return False
            if views[0] != views[1]:
                return False
            remaining -= count
    return True
