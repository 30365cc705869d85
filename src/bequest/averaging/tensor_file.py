"""Safetensors files written tensor by tensor and read by mapping, for members and shadows.

Writing streams: a tensor is asked for when its turn comes, so that memory holds one at a time.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bequest.checkpoints.dtypes import numpy_dtype
from bequest.checkpoints.header import encode_header, read_header
from bequest.errors import CheckpointError, StorageError

Array = NDArray[Any]

_PIECE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor to write."""

    dtype: str
    """The dtype as safetensors names it, such as F32 or BF16."""

    shape: tuple[int, ...]
    """Its shape."""

    read: Callable[[], Array]
    """Gives its values, in C order, as `bequest.checkpoints.dtypes.numpy_dtype(dtype)`."""


def write_tensors(path: Path, entries: Mapping[str, Entry]) -> int:
    """Write a safetensors file beside `path` and rename it there, so that it is whole or absent.

    Args:
        path: The file; its folder exists.
        entries: The tensors by name, in the order in which they are read.

    Returns:
        The CRC-32 of the whole file.

    Raises:
        StorageError: The disk is full or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            header = encode_header((name, e.dtype, e.shape) for name, e in entries.items())
            checksum = zlib.crc32(header)
            file.write(header)
            for entry in entries.values():
                values = np.ascontiguousarray(entry.read()).reshape(-1).view(np.uint8)
                for start in range(0, len(values), _PIECE):
                    piece = values[start : start + _PIECE].data
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written: {error.strerror or error}.") from error
    return checksum


def map_tensors(path: Path) -> dict[str, Array]:
    """Return the tensors of a safetensors file as read-only arrays mapped from it.

    Raises:
        CheckpointError: The file is missing or is not what its header says.
    """
    entries, _ = read_header(path)
    data = np.memmap(path, dtype=np.uint8, mode="r")
    arrays = {}
    for entry in entries:
        values: Array = data[entry.start : entry.start + entry.num_bytes]
        arrays[entry.name] = values.view(numpy_dtype(entry.dtype)).reshape(entry.shape)
    return arrays


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file, as `write_tensors` gave it.

    Raises:
        CheckpointError: The file is missing.
    """
    checksum = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                checksum = zlib.crc32(piece, checksum)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return checksum


def write_json(path: Path, value: object) -> None:
    """Write JSON beside `path` and rename it there.

    Raises:
        StorageError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written: {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
