"""The errors that bequest raises on purpose, each with the exit code its command ends with."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


class BequestError(Exception):
    """Something bequest refuses or cannot do, said in one sentence.

    Every error that bequest raises on purpose is one of these, so that a caller can catch the
    family; the message names the field or file, what was found there and what to do.
    """

    exit_code: int = 1
    """Exit code of a command that ends with this error."""


class InputError(BequestError):
    """The request is at fault: an argument, a configuration field, data or a folder it names."""

    exit_code = 2


class CheckpointError(InputError):
    """The files of a checkpoint are missing, damaged, unsafe to read or contradict one another."""


class UnsupportedModelError(InputError):
    """The model is sound, but bequest does not know how to do this to it correctly."""


class StorageError(BequestError):
    """The disk or the file system failed: no space, an I/O error, a folder held by another run."""

    exit_code = 1


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads something into one sentence.

    Args:
        what: the sentence's beginning: what could not be loaded.

    Raises:
        InputError: something was raised that is no error of bequest's.
        StorageError: the disk failed or is full.
        MemoryError: memory ran out, of the machine or of its accelerator.
    """
    try:
        yield
    except (BequestError, MemoryError):
        raise
    except Exception as error:  # Which kinds it raises depends on what is wrong.
        reason = " ".join(str(error).split()) or type(error).__name__
        if _is_out_of_memory(error):
            raise MemoryError(f"{what}: {reason[:200].rstrip('.')}") from error
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise StorageError(f"{what}: {reason[:200].rstrip('.')}") from error
        raise InputError(f"{what}: {reason[:200].rstrip('.')}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has an error for accelerators, and a message for the CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return "OutOfMemoryError" in names or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
