"""One file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bequest.checkpoints.publish import recover, scratch_folder


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, what was written becomes `path`.

    Args:
        path: its folder is made if it does not exist; a file that stands there is replaced.

    Raises:
        InputError: the file cannot be made there.
        StorageError: writing failed: the disk is full, or reports an error.
    """
    recover(path)  # What a run that died left here.
    with scratch_folder(path) as scratch:
        written = scratch / path.name
        yield written
        with written.open("rb+") as stream:
            os.fsync(stream.fileno())
        written.replace(path)
