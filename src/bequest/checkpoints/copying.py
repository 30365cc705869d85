"""Copy ranges of bytes from file to file inside the kernel, in memory that a constant bounds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

Progress = Callable[[int], None]
"""Is told how many more bytes are written."""

_CHUNK_BYTES = 8 << 20
_NOT_HERE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
"""What `copy_file_range` answers where it cannot serve, rather than where the copy failed."""


def copy_range(
    source: int, start: int, target: int, offset: int, count: int, progress: Progress
) -> None:
    """Copy `count` bytes between two open files; neither file's position moves.

    Args:
        source: file descriptor, open for reading.
        start: first byte to read.
        target: file descriptor, open for writing.
        offset: where the first byte goes.
        count: bytes to copy.
        progress: is told of bytes as they are written.

    Raises:
        OSError: reading or writing failed; `EIO` if the source ends before `count` bytes.
    """
    done = 0
    while done < count:
        moved = _require_some(_copy_some(source, start + done, target, offset + done, count - done))
        done += moved
        progress(moved)


def _copy_some(source: int, start: int, target: int, offset: int, count: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            # In steps, so that an interrupt is heard while a large tensor is copied.
            return os.copy_file_range(source, target, min(count, 16 * _CHUNK_BYTES), start, offset)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    data = os.pread(source, min(count, _CHUNK_BYTES), start)
    write_all(target, data, offset)
    return len(data)


def read_into(source: int, room: memoryview, start: int) -> int:
    """Read from an open file into memory, and return how many bytes came.

    Args:
        source: file descriptor, open for reading.
        room: where the bytes go; not all of it need be filled.
        start: first byte to read.

    Raises:
        OSError: reading failed; `EIO` if the file ends before `start`.
    """
    return _require_some(os.preadv(source, [room], start))


def _require_some(count: int) -> int:
    if count == 0:
        raise OSError(errno.EIO, "the source file ended early: it changed while it was read")
    return count


def write_all(target: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset` of an open file.

    Raises:
        OSError: writing failed.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(target, view, offset)
        view = view[written:]
        offset += written
