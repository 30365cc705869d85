"""A run's folder: whose it is, and the newest complete checkpoint to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.run import find_checkpoints
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError
from bequest.training.resumable import LOCK, differences, held, lack

RECORD = "bequest-run.json"
"""What a run is asked to do; written before its first step."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run goes on."""

    checkpoint: Path | None
    """The newest complete checkpoint; None to begin at the beginning."""
    step: int
    """Its step, or 0."""
    notes: tuple[str, ...]
    """A sentence on each newer checkpoint that is not complete."""


def resume_point(run: Path, processes: int = 1) -> ResumePoint:
    """Find the newest checkpoint of a run that a trainer can go on from exactly.

    Args:
        run: the folder with `checkpoint-N` folders; it need not exist.
        processes: how many train.
    """
    notes: list[str] = []
    for found in reversed(find_checkpoints(run)) if run.is_dir() else ():
        if not found.path.name.startswith("checkpoint-"):
            continue
        lacks = lack(found.path, processes)
        if lacks is None:
            return ResumePoint(checkpoint=found.path, step=found.step, notes=tuple(notes))
        notes.append(f"{found.path.name} {lacks}: not resumed from.")
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
    changed = differences(before, json.loads(json.dumps(record)))
    if changed and not overwrite:
        raise InputError(
            f"run_dir {run} holds a run with {changed[0]}; name another run_dir, or pass --overwrite "
            "to throw that run away"
        )
    return not changed


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
    with held(run):
        if not goes_on:
            _clear(run)
            with whole_file(run / RECORD) as file:
                file.write_text(json.dumps(dict(record), indent=2) + "\n", encoding="utf-8")
        yield


def _clear(run: Path) -> None:
    for path in run.iterdir():
        if path.name in ("cache", LOCK):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
