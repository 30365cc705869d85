"""Weight files as they are written: front to back, through the page cache or past it.

A result much smaller than memory is copied inside the kernel and left in the page cache, where
whoever loads the model finds it. A larger one would only push everything else out of memory, and
the kernel holds its writer up while it cleans: such files are written past the cache (`O_DIRECT`),
in blocks as the device wants them, with a tenth of the processor time.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bequest.checkpoints.copying import Progress, copy_range, read_into, write_all

_BUFFER_BYTES = 4 << 20
_BLOCK_BYTES = 4096
"""Positions and lengths past the cache are multiples of this, the largest block in use."""
_SHARE_OF_MEMORY = 10
"""Linux begins to hold writers up once this part of memory waits to be written (its
`vm.dirty_background_ratio` is 10 % unless somebody changed it)."""


class OutputFile(Protocol):
    """A new file that is written front to back and on the disk when it is left."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, data: bytes) -> None:
        """Append `data`."""

    def copy(self, source: int, start: int, count: int, progress: Progress) -> None:
        """Append `count` bytes of an open file, from `start` on, and tell how many are done."""


def create_output(path: Path, num_bytes: int, *, past_cache: bool) -> OutputFile:
    """Return a new file to be written.

    Args:
        path: must not exist.
        num_bytes: what it will hold.
        past_cache: write past the page cache, where the file system can.
    """
    if past_cache and (direct := getattr(os, "O_DIRECT", 0)):
        return _DirectFile(path, num_bytes, direct)
    return _CachedFile(path)


def writes_past_cache(num_bytes: int) -> bool:
    """Tell whether a result of this many bytes is one to write past the page cache."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return num_bytes > memory / _SHARE_OF_MEMORY


class _CachedFile:
    """A file in the page cache, flushed at the end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def write(self, data: bytes) -> None:
        write_all(self._file, data, self._offset)
        self._offset += len(data)

    def copy(self, source: int, start: int, count: int, progress: Progress) -> None:
        copy_range(source, start, self._file, self._offset, count, progress)
        self._offset += count


class _DirectFile:
    """A file past the page cache: an aligned buffer is filled, then written as a whole."""

    def __init__(self, path: Path, num_bytes: int, direct: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.open(path, flags, 0o666)
        self._num_bytes = num_bytes
        try:
            # Full size at once: a write that extends a file waits for the file's new length.
            os.ftruncate(self._file, num_bytes)
            self._set_flags(direct)
        except BaseException:
            os.close(self._file)
            raise
        self._view = memoryview(mmap.mmap(-1, _BUFFER_BYTES))  # which begins at a page
        self._filled = 0
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write_buffer()
                os.ftruncate(self._file, self._num_bytes)  # the last block was padded
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = min(len(rest), len(self._view) - self._filled)
            self._view[self._filled : self._filled + count] = rest[:count]
            self._advance(count)
            rest = rest[count:]

    def copy(self, source: int, start: int, count: int, progress: Progress) -> None:
        done = 0
        while done < count:
            room = self._view[self._filled :][: count - done]
            moved = read_into(source, room, start + done)
            self._advance(moved)
            done += moved
            progress(moved)

    def _advance(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._view):
            self._write_buffer()

    def _write_buffer(self) -> None:
        padded = -(-self._filled // _BLOCK_BYTES) * _BLOCK_BYTES
        self._view[self._filled : padded] = bytes(padded - self._filled)
        try:
            write_all(self._file, self._view[:padded], self._offset)
        except OSError as error:
            # The file system takes the flag and then no such write, or blocks are larger here.
            if error.errno != errno.EINVAL:
                raise
            self._set_flags(0)
            write_all(self._file, self._view[:padded], self._offset)
        self._offset += self._filled
        self._filled = 0

    def _set_flags(self, flags: int) -> None:
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags)
        except OSError as error:
            # tmpfs and some network file systems have nothing to go past.
            if error.errno != errno.EINVAL:
                raise
