"""What every resumable run needs: a folder of its own, and checkpoints that are whole."""

from __future__ import annotations

import fcntl
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bequest.checkpoints.run import incompleteness
from bequest.errors import InputError

LOCK = ".lock"
"""File of a run's folder that the process which trains there holds."""
_PICKLED = ("optimizer*.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Files of a checkpoint that are zip archives, whose end tells whether they are whole."""


@contextmanager
def held(run: Path, field: str = "run_dir") -> Iterator[None]:
    """Make the folder if there is none, and keep other runs out of it while inside.

    Args:
        run: the folder.
        field: what the user calls it.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(
            f"{field} {run} cannot be written: {error.strerror}; name another"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{field} {run} is in use by another process; wait for it, or name another"
            ) from error
        except OSError:
            pass  # No locks on this file system.
        yield
    finally:
        os.close(lock)


def lack(checkpoint: Path, processes: int) -> str | None:
    """Return what a checkpoint lacks to be resumed from exactly; None if nothing.

    Args:
        checkpoint: as the trainer saved it.
        processes: how many train: each has random generators of its own.
    """
    lacks = incompleteness(checkpoint)
    if lacks is not None:
        return lacks
    ranks = ["rng_state.pth"] if processes == 1 else []
    ranks += [f"rng_state_{rank}.pth" for rank in range(processes) if processes > 1]
    for name in ("scheduler.pt", *ranks):
        if not (checkpoint / name).is_file():
            return f"has no {name}"
    for pattern in _PICKLED:
        for file in checkpoint.glob(pattern):
            if not zipfile.is_zipfile(file):
                return f"has a {file.name} that is cut short"
    return None


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which settings differ, such as "training.seed = 1 where it is now 2"."""
    old, new = dict(_flat("", earlier)), dict(_flat("", now))
    missing = object()

    def shown(value: Any) -> str:
        return "nothing" if value is missing else repr(value)

    return [
        f"{name} = {shown(old.get(name, missing))} where it is now {shown(new.get(name, missing))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, missing) != new.get(name, missing)
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value
