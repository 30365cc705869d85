"""The header of a safetensors file: read with every check that its format demands, and written.

A file is eight bytes with the header's length (little endian), the header (JSON: name -> dtype,
shape, data_offsets), and the data without holes. Source: the safetensors format description.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints import dtypes
from bequest.checkpoints.pieces import Piece
from bequest.errors import CheckpointError, InputError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The reference implementation refuses longer headers."""
_MAX_NUMBER = 2**63 - 1
_LARGE = re.compile(rb"[0-9]{300}|[0-9][eE][+-]?[0-9]")
"""What a number beyond float64 has at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """Where one tensor lies: a range of bytes in a file."""

    name: str
    """Key of the tensor in its checkpoint."""
    dtype: str
    """Safetensors dtype, such as "BF16"."""
    shape: tuple[int, ...]
    """Extents, outermost first; empty for a scalar."""
    file: Path
    """The file that holds the bytes."""
    start: int
    """First byte, counted from the start of the file."""

    @property
    def num_bytes(self) -> int:
        """Bytes the tensor takes."""
        return dtypes.num_bytes(self.dtype, self.shape)

    @property
    def num_elements(self) -> int:
        """Elements the tensor has."""
        return math.prod(self.shape)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The one run of bytes that holds all elements."""
        return (Piece(first=0, count=self.num_elements, file=self.file, start=self.start),)


def read_header(path: Path) -> tuple[list[TensorEntry], dict[str, str]]:
    """Read the tensors of one safetensors file, in the order of their bytes, and its metadata.

    Raises:
        CheckpointError: the file is truncated, too long, or its header breaks the format.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                raise CheckpointError(
                    f"{path} is no whole safetensors file: it has {size} bytes and announces a "
                    f"header of {length}; copy or download it again."
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    header = _parse(text, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: the header's __metadata__ must map strings to strings.")
    data_start = _LENGTH_BYTES + length
    entries, end = _entries(header, path, data_start)
    if end != size:
        state = "truncated" if size < end else "followed by bytes its header does not name"
        raise CheckpointError(
            f"{path} is {state}: it has {size} bytes and its header states {end}; "
            "copy or download it again."
        )
    return entries, metadata


def encode_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Encode the opening bytes of a safetensors file that holds tensors in the given order.

    Args:
        tensors: name, safetensors dtype and shape of each, in the order of their bytes.

    Returns:
        Length and header, padded with spaces so that the data start at a multiple of eight.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + dtypes.num_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    # Numbers are looked at one by one only where one could be too large: that takes its time.
    number = _number if _LARGE.search(text) else None
    try:
        header = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_int=number, parse_float=number
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged safetensors header: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a safetensors header that is no JSON object.")
    return header


def _number(digits: str) -> int | float:
    """Read a number as safetensors' own reader does, which refuses what no float64 can hold."""
    if math.isinf(float(digits)):
        raise ValueError("a number in it is out of range")
    return int(digits) if digits.lstrip("-").isdigit() else float(digits)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name stands in it twice")
    return mapping


def _entries(
    header: Mapping[str, Any], path: Path, data_start: int
) -> tuple[list[TensorEntry], int]:
    found = [_entry(name, value, path, data_start) for name, value in header.items()]
    found.sort(key=lambda pair: (pair[0].start, pair[1]))
    position = data_start
    for entry, end in found:
        if entry.start != position:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} starts at byte {entry.start} and the one before it "
                f"ends at {position}; a safetensors file has no holes and no overlaps."
            )
        position = end
    return [entry for entry, _ in found], position


def _entry(name: str, value: Any, path: Path, data_start: int) -> tuple[TensorEntry, int]:
    try:
        dtype, (begin, end) = value["dtype"], value["data_offsets"]
        if not isinstance(value["shape"], list):
            raise ValueError("its shape is no list")
        shape = tuple(value["shape"])
        if not all(type(n) is int and 0 <= n <= _MAX_NUMBER for n in (*shape, begin, end)):
            raise ValueError("shape and data_offsets must be whole numbers of at least 0")
        name.encode()
        stated = dtypes.num_bytes(dtype, shape)
        if stated > _MAX_NUMBER:
            raise ValueError("the tensor has more bytes than a file can hold")
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CheckpointError(
            f"{path}: the header entry of {name!r:.100} is damaged: {error!s:.200}"
        ) from error
    if end - begin != stated:
        raise CheckpointError(
            f"{path}: tensor {name!r} of dtype {dtype} and shape {list(shape)} needs {stated} "
            f"bytes and its data_offsets give {end - begin}."
        )
    entry = TensorEntry(name=name, dtype=dtype, shape=shape, file=path, start=data_start + begin)
    return entry, data_start + end
