"""The folder of a training run: what the run is, where it stands, and who works in it.

    run.json          what the run is: every setting that its weights depend on
    scores.parquet    the losses of the pre-trained model, if the method needs them
    checkpoint-N/     what the trainer saves
    averaging/        members of averages

A run that is broken off at any moment is taken up from its newest complete checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.run import TRAINER_STATE, find_checkpoints
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError
from bequest.training.resumable import LOCK, differences, lack

STATE = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """How a run begins in its folder."""

    checkpoint: Path | None
    """The checkpoint to go on from; None at the very beginning."""
    notes: tuple[str, ...]
    """What the user should hear."""


def check_run_folder(run: Path, out: Path) -> None:
    """Refuse a folder that no run of its own can live in; nothing is written.

    Args:
        run: the run's folder; it need not exist.
        out: where the finished model goes, as a real path.

    Raises:
        InputError: the folders overlap, or `run` is a file or holds something else.
    """
    real = Path(os.path.realpath(run))
    if real == out or out in real.parents or real in out.parents:
        raise InputError(f"run_dir {run} overlaps out {out}; name a folder beside it")
    if run.exists() and not run.is_dir():
        raise InputError(f"run_dir {run} is a file; name a folder")
    # A run that died at once has left its lock, and perhaps the beginning of its state.
    visible = run.is_dir() and any(not path.name.startswith(".") for path in run.iterdir())
    if visible and not (run / STATE).is_file():
        raise InputError(f"run_dir {run} holds files of something else; name another folder")


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
        lacks = lack(found.path, processes)
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
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Return what the trainer wrote about the run in a complete checkpoint."""
    return read_json(checkpoint / TRAINER_STATE)
