"""Folders that appear whole or not at all: written beside the target, then renamed.

A temporary folder is held by a lock on the folder itself, which the kernel drops when its process
ends, however it ends. So whatever nobody locks is left over from a run that died, and goes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bequest.errors import InputError, StorageError

_LEFTOVER = re.compile(r"\.(?P<target>.+)\.bequest-[0-9a-f]{8}\.(?P<kind>tmp|old)")
_AT_FDCWD = -100
_SPARE_BYTES = 32 << 20
"""For tokenizer, configuration and the file system's own needs."""
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def check_target(out: str | Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> Path:
    """Return the real path of a folder to be written, refusing one that must not be.

    Args:
        out: the folder that a command is asked to write; it need not exist.
        overwrite: whether a model that stands there may be replaced.
        inputs: folders that the command reads.

    Raises:
        InputError: something stands there, or it overlaps one of the inputs.
    """
    if Path(out).is_symlink() and not Path(out).exists():
        raise InputError(f"out {out} is a link to a folder that does not exist; name the folder.")
    target = Path(os.path.realpath(Path(out).expanduser()))
    recover(target)
    for folder in inputs:
        if overlap(target, folder):
            raise InputError(f"out {out} overlaps the input {folder}; name another folder.")
    if not os.path.lexists(target):
        return target
    if not target.is_dir():
        raise InputError(f"out {out} is a file; name a folder.")
    if any(target.iterdir()):
        if not overwrite:
            raise InputError(f"out {out} exists; name another folder or pass --overwrite.")
        if not any((target / name).is_file() for name in ("config.json", "bequest.json")):
            raise InputError(
                f"out {out} exists and is no model folder, so --overwrite does not replace it; "
                "name another folder."
            )
    return target


def overlap(one: Path, other: Path) -> bool:
    """Return whether two paths, links followed, are one place or one lies within the other."""
    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return first == second or first in second.parents or second in first.parents


def require_space(target: Path, num_bytes: int) -> None:
    """Refuse a plan that the disk cannot hold.

    Raises:
        StorageError: there is less free space than the plan needs.
    """
    existing = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes + _SPARE_BYTES:
        raise StorageError(
            f"out {target} needs {num_bytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; "
            "free space or name a folder on another disk."
        )


@contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `target`; on success it becomes `target`, else it vanishes.

    Everything written is flushed to the disk before the rename, so that a crash of the machine
    leaves the old state or the new one.

    Args:
        target: a path from `check_target`.
        overwrite: replace what stands at `target`, by exchanging the two names.

    Raises:
        InputError: the folder cannot be made, or `target` appeared in the meantime.
        StorageError: writing failed: the disk is full, or reports an error.
    """
    made: list[Path] = []
    staging: Path | None = None
    lock = -1
    try:
        made = _make_parents(target.parent)
        staging, lock = _locked_folder(target)
        yield staging
        _flush(staging)
        _publish(staging, target, overwrite=overwrite)
        made = []
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        _remove(staging, lock, made)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside `target` that vanishes in any case.

    Raises:
        InputError: the folder cannot be made.
        StorageError: writing failed: the disk is full, or reports an error.
    """
    made: list[Path] = []
    scratch: Path | None = None
    lock = -1
    try:
        made = _make_parents(target.parent)
        scratch, lock = _locked_folder(target)
        yield scratch
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        _remove(scratch, lock, made)


def recover(target: Path) -> None:
    """Undo what a run that died left beside `target`; folders that a living process locks stay.

    Without the system call that exchanges two names, replacing takes two renames; if a run died
    between them, the old folder gets its name back.
    """
    parent = target.parent
    try:
        neighbours = list(parent.iterdir())
    except OSError:
        return
    for leftover in neighbours:
        match = _LEFTOVER.fullmatch(leftover.name)
        lock = _try_lock(leftover) if match else -1
        if match is None or lock < 0:
            continue
        try:
            home = parent / match["target"]
            if match["kind"] == "old" and not os.path.lexists(home):
                leftover.rename(home)
            else:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            pass  # Not ours to write in: whoever may will clean it up.
        finally:
            os.close(lock)


def _make_parents(folder: Path) -> list[Path]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made = []
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        made.append(path)
    return made


def _locked_folder(target: Path) -> tuple[Path, int]:
    while True:
        staging = target.parent / f".{target.name}.bequest-{secrets.token_hex(4)}.tmp"
        staging.mkdir()
        lock = -1
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            # Between its making and its lock, another run's recovery took the folder.
            if lock >= 0:
                os.close(lock)
            continue
        except OSError:
            # No locks here (some network file systems), so no recovery either.
            return staging, lock
        if staging.exists():
            return staging, lock
        os.close(lock)


def _remove(staging: Path | None, lock: int, made: list[Path]) -> None:
    """Remove a temporary folder, if it is still there, and the parents that were made for it."""
    if staging is not None:
        shutil.rmtree(staging, ignore_errors=True)
    if lock >= 0:
        os.close(lock)
    for parent in reversed(made):
        with suppress(OSError):
            parent.rmdir()


def _try_lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock, or -1 if a process holds it already."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(staging: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite and target.is_dir() and any(target.iterdir()):
        if not _rename(staging, target, _RENAME_EXCHANGE):
            old = staging.with_suffix(".old")
            target.rename(old)
            staging.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    else:
        if target.is_dir():
            target.rmdir()  # Only an empty folder lets itself be removed.
        if not _rename(staging, target, _RENAME_NOREPLACE):
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            staging.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Call renameat2; False where the kernel, libc or file system does not have it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _explained(error: OSError, target: Path) -> InputError | StorageError:
    named = error.filename
    if named is not None and not os.fsdecode(named).startswith(str(target.parent)):
        return StorageError(f"{os.fsdecode(named)}: {error.strerror}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk that holds {target.parent} is full; free space and run again."
        )
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return InputError(f"out {target} exists; name another folder or pass --overwrite.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        return InputError(f"out {target} cannot be written: {error.strerror}; name another folder.")
    return StorageError(f"writing {target} failed: {error.strerror or error}.")
