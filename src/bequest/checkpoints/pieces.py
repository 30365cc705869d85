"""Tensors as pieces of files, read by position: one range of bytes, or several where shards cut it."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

_MOST_OPEN_FILES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A run of a tensor's elements that follow one another in a file."""

    first: int
    """Number of its first element, in the tensor's row-major order."""
    count: int
    """How many elements it has."""
    file: Path
    """The file that holds the bytes."""
    start: int
    """First byte, counted from the start of the file."""


class StoredTensor(Protocol):
    """A tensor in files, whatever their format."""

    @property
    def name(self) -> str:
        """Key of the tensor in its checkpoint."""

    @property
    def dtype(self) -> str:
        """Safetensors dtype, such as "BF16"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, outermost first."""

    @property
    def num_elements(self) -> int:
        """Elements the tensor has."""

    @property
    def num_bytes(self) -> int:
        """Bytes the tensor takes."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Where its elements are: all of them, in order, without holes."""


class OpenFiles:
    """The files that one thread has open; the least recently used is closed when there are many.

    Args:
        flags: as for `os.open`.
    """

    def __init__(self, flags: int = os.O_RDONLY) -> None:
        self._flags = flags
        self._open: OrderedDict[Path, int] = OrderedDict()

    def descriptor(self, path: Path) -> int:
        """Return the descriptor of a file, opened if need be; it is good until the next call.

        Raises:
            OSError: the file cannot be opened.
        """
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= _MOST_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, self._flags | os.O_CLOEXEC)
        return self._open[path]

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def read_elements(
    tensor: StoredTensor, first: int, out: npt.NDArray[np.generic], files: OpenFiles
) -> None:
    """Read a run of a tensor's elements into an array.

    Args:
        tensor: where they are.
        first: number of the first element, in row-major order.
        out: shape ``(n,)``, contiguous, of the type that holds the tensor's bytes; overwritten.
        files: the calling thread's open files.

    Raises:
        OSError: reading failed; `EIO` if a file is shorter than it was when it was opened.
    """
    width = out.itemsize
    view = out.data.cast("B")
    pieces, stop = tensor.pieces, first + len(out)
    position = bisect_right(pieces, first, key=lambda piece: piece.first) - 1
    while position < len(pieces) and pieces[position].first < stop:
        piece = pieces[position]
        begin, end = max(first, piece.first), min(stop, piece.first + piece.count)
        target = view[(begin - first) * width : (end - first) * width]
        _read_all(files, piece.file, piece.start + (begin - piece.first) * width, target)
        position += 1


def _read_all(files: OpenFiles, file: Path, offset: int, target: memoryview) -> None:
    while target:
        count = os.preadv(files.descriptor(file), [target], offset)
        if count == 0:
            raise OSError(errno.EIO, "ended early: it changed while it was read", str(file))
        target = target[count:]
        offset += count
