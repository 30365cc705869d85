"""The folder of a training run: what the run is, where it stands, and who works in it.

    run.json          what the run is: every setting that its weights depend on
    scores.parquet    the losses of the pre-trained model, if the method needs them
    checkpoint-N/     what the trainer saves
    averaging/        members of averages

A run that is broken off at any moment is taken up from its newest complete checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.run import TRAINER_STATE, find_checkpoints, incompleteness
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError

STATE = "run.json"
_LOCK = ".lock"
_PICKLED = ("optimizer*.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Files of a checkpoint that are zip archives, whose end tells whether they are whole."""


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """How a run begins in its folder."""

    checkpoint: Path | None
    """The checkpoint to go on from; None at the very beginning."""
    notes: tuple[str, ...]
    """What the user should hear."""


@contextmanager
def held_run(run: Path) -> Iterator[None]:
    """Make the folder if there is none, and keep other runs out of it while inside.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(
            f"run_dir {run} cannot be written: {error.strerror}; name another"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"run_dir {run} is in use by another process; wait for it, or name another"
            ) from error
        except OSError:
            pass  # No locks on this file system.
        yield
    finally:
        os.close(lock)


def begin(
    run: Path, identity: Mapping[str, Any], *, processes: int, anew: bool, versions: str
) -> RunStart:
    """Start a run in its folder, or find where to take it up; call it with the folder held.

    Args:
        run: the folder.
        identity: what the weights depend on, as JSON has it.
        processes: how many train.
        anew: throw a run of other settings away instead of refusing.
        versions: of the packages, as one text.

    Raises:
        InputError: the folder holds a run of other settings.
        StorageError: the folder cannot be written.
    """
    state = run / STATE
    notes: list[str] = []
    if state.is_file():
        earlier = read_json(state)
        changed = differences(earlier.get("identity", {}), identity)
        if changed and not anew:
            raise InputError(
                f"run_dir {run} holds a run with {changed[0]}; put it back to go on, or start anew "
                "with --overwrite"
            )
        if changed:
            empty(run)
            notes.append("The run of other settings that was there is gone.")
        elif earlier.get("versions") != versions:
            notes.append(
                f"The run was begun with {earlier.get('versions')} and goes on with {versions}: "
                "the last bits may differ from an uninterrupted one."
            )
    checkpoint = None
    for found in reversed(find_checkpoints(run)):
        lacks = _lack(found.path, processes)
        if lacks is None:
            checkpoint = found.path
            break
        # Its writing was cut short; left there, the trainer would count and keep it.
        shutil.rmtree(found.path)
        notes.append(f"{found.path.name} {lacks}: it was left out and removed.")
    if checkpoint is not None:
        notes.append(f"The run goes on from {checkpoint.name}.")
    if not state.is_file():
        text = json.dumps({"identity": dict(identity), "versions": versions}, indent=1)
        with whole_file(state) as file:
            file.write_text(text + "\n", encoding="utf-8")
    return RunStart(checkpoint=checkpoint, notes=tuple(notes))


def empty(run: Path) -> None:
    """Remove all that a run left in its folder, the mark that it is one last."""
    for path in sorted(run.iterdir(), key=lambda path: path.name == STATE):
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Return what the trainer wrote about the run in a complete checkpoint."""
    return read_json(checkpoint / TRAINER_STATE)


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


def _lack(checkpoint: Path, processes: int) -> str | None:
    """Return what a checkpoint lacks to be resumed from exactly; None if nothing."""
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
