"""A run's folder: whose it is, and the newest complete checkpoint to go on from."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.run import find_checkpoints, incompleteness
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError, StorageError

RECORD = "bequest-run.json"
"""What a run is asked to do; written before its first step."""
_LOCK = ".bequest-run.lock"


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run goes on."""

    checkpoint: Path | None
    """The newest complete checkpoint; None to begin at the beginning."""
    step: int
    """Its step, or 0."""
    notes: tuple[str, ...]
    """A sentence on each newer checkpoint that is not complete."""


def resume_point(run: Path) -> ResumePoint:
    """Find the newest checkpoint of a run that a trainer can go on from exactly.

    Args:
        run: the folder with `checkpoint-N` folders; it need not exist.
    """
    notes: list[str] = []
    for found in reversed(find_checkpoints(run)) if run.is_dir() else ():
        if not found.path.name.startswith("checkpoint-"):
            continue
        lack = incompleteness(found.path)
        if lack is None:
            return ResumePoint(checkpoint=found.path, step=found.step, notes=tuple(notes))
        notes.append(f"{found.path.name} {lack}: not resumed from.")
    return ResumePoint(checkpoint=None, step=0, notes=tuple(notes))


def check_run(run: Path, record: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Refuse a folder whose run was asked to do something else.

    Args:
        run: the run's folder; it need not exist.
        record: everything that decides the run's numbers, as JSON holds it.
        overwrite: whether such a run may be thrown away.

    Returns:
        Whether the folder holds this very run, to be gone on with.

    Raises:
        InputError: the folder holds another run, or something else.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"run_dir {run} is a file; name a folder")
    if not run.is_dir() or not any(run.iterdir()):
        return False
    if not (run / RECORD).is_file():
        # A run that died before its record was written left a lock, and perhaps a cache.
        if all(path.name == "cache" or path.name.startswith(".") for path in run.iterdir()):
            return False
        raise InputError(f"run_dir {run} holds something that is no run of bequest; name another")
    before = read_json(run / RECORD)
    other = _difference(before, json.loads(json.dumps(record)))
    if other is not None and not overwrite:
        raise InputError(
            f"run_dir {run} holds a run with {other}; name another run_dir, or pass --overwrite "
            "to throw that run away"
        )
    return other is None


@contextmanager
def open_run(run: Path, record: Mapping[str, Any], *, goes_on: bool) -> Iterator[None]:
    """Hold a run's folder while training; one process, the first, does this.

    Args:
        run: the run's folder, which is made.
        record: as for `check_run`.
        goes_on: what `check_run` returned; False removes an earlier run's files, but not its cache.

    Raises:
        InputError: another process trains there, or the folder cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(
            f"run_dir {run} cannot be written: {error.strerror}; name another"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"run_dir {run} is held by another process that trains") from error
        except OSError:
            pass  # No locks here (some network file systems).
        if not goes_on:
            _clear(run)
            with whole_file(run / RECORD) as file:
                file.write_text(json.dumps(dict(record), indent=2) + "\n", encoding="utf-8")
        yield
    finally:
        os.close(lock)


def _clear(run: Path) -> None:
    for path in run.iterdir():
        if path.name in ("cache", _LOCK):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _difference(before: Any, now: Any, name: str = "") -> str | None:
    """Name the first value that differs between two JSON documents, as part of a sentence."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            inner = f"{name}.{key}" if name else key
            found = _difference(before.get(key), now.get(key), inner)
            if found is not None:
                return found
        return None
    return None if before == now else f"{name} = {_short(before)}, and now it is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
