"""Tensors in which every block has a slice, side by side, as Gemma 3n's per-layer embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bequest.checkpoints import dtypes
from bequest.checkpoints.header import TensorEntry
from bequest.checkpoints.shards import PlannedTensor
from bequest.errors import CheckpointError

ROWS_AT_A_TIME = 1024
"""Rows of a matrix that are in memory at once; Gemma 3n's are 18 KB wide."""


@dataclass(frozen=True)
class Packed:
    """A matrix that holds one slice a block along an axis."""

    ending: str
    """What its key ends with."""
    axis: int
    """The axis along which the blocks' slices follow one another."""


@dataclass(frozen=True)
class Part:
    """Some blocks' slices of a stored tensor."""

    entry: TensorEntry
    """The stored tensor."""
    depth: int
    """How many blocks have a slice in it."""
    blocks: tuple[int, ...]
    """The blocks whose slices are taken, in order."""


def find_packed(name: str, packed: Sequence[Packed]) -> Packed | None:
    """Return how a tensor is packed, or None if it is not."""
    return next((kind for kind in packed if name.endswith(kind.ending)), None)


def plan_packed(
    name: str, kind: Packed, parts: Sequence[Part], dtype: str, *, model: str
) -> PlannedTensor:
    """Plan a tensor that is put together from blocks' slices of stored ones.

    Args:
        name: key in the result.
        kind: how it is packed.
        parts: whose slices it holds, in order; all of one width.
        dtype: safetensors dtype in the result.
        model: the checkpoint's name, for messages.

    Raises:
        CheckpointError: a stored tensor does not divide into as many slices as there are blocks.
    """
    for part in parts:
        if part.entry.shape[kind.axis] % part.depth:
            raise CheckpointError(
                f"{model}: {part.entry.name} has the shape {list(part.entry.shape)}, which does not "
                f"divide into slices for {part.depth} blocks."
            )
    shape = list(parts[0].entry.shape)
    width = shape[kind.axis] // parts[0].depth
    shape[kind.axis] = width * sum(len(part.blocks) for part in parts)

    def values() -> Iterator[npt.NDArray[np.generic]]:
        if kind.axis == 0:
            for part in parts:
                for block in part.blocks:
                    yield from _rows(part, dtype, range(block * width, (block + 1) * width))
            return
        columns = [
            np.concatenate([np.arange(block * width, (block + 1) * width) for block in part.blocks])
            for part in parts
        ]
        together = [
            _rows(part, dtype, range(shape[0]), taken)
            for part, taken in zip(parts, columns, strict=True)
        ]
        for pieces in zip(*together, strict=True):
            yield np.concatenate(pieces, axis=1)

    return PlannedTensor(name=name, dtype=dtype, shape=tuple(shape), source=values)


def _rows(
    part: Part, dtype: str, rows: range, columns: npt.NDArray[np.intp] | None = None
) -> Iterator[npt.NDArray[np.generic]]:
    """Read some rows of a matrix, a few at a time, and convert them."""
    entry = part.entry
    # Mapped, not read: only the pages of the wanted slices come into memory.
    stored: npt.NDArray[np.generic] = np.memmap(
        entry.file, dtypes.numpy_dtype(entry.dtype), "r", entry.start, entry.shape
    )
    for first in range(rows.start, rows.stop, ROWS_AT_A_TIME):
        piece = stored[first : min(first + ROWS_AT_A_TIME, rows.stop)]
        taken = piece if columns is None else np.take(piece, columns, axis=1)
        yield dtypes.convert(np.ascontiguousarray(taken), entry.dtype, dtype)
