"""A training run's checkpoints: which steps are there, and which of them are complete.

A checkpoint that is being written, or whose writing was cut short, looks much like a finished one.
Whoever resumes from checkpoints or uses them while they are made asks `incompleteness` only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.formats import STATE_DICT_SUFFIXES, open_weights
from bequest.errors import BequestError, InputError

TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer"
TRAINER_MARKS = (TRAINER_STATE, OPTIMIZER)
"""What Trainer leaves in a checkpoint besides the weights; it writes `trainer_state.json` last."""

_INCOMPLETE = "checkpoint-is-incomplete.txt"
"""Trainer's just-in-time saving keeps this file while it writes."""
_ARGUMENTS = "training_args.bin"
_OPTIMIZERS = ("optimizer*", "global_step*")
"""Optimizer state: of PyTorch, accelerate and FSDP; of DeepSpeed."""
_NAME = re.compile(
    r"(?:checkpoint|ckpt|epoch)?[-_=]?(\d+)"
    r"|(?:global_step|step|iteration|iter)[-_=]?(\d+)"
    # What OLMo and LitGPT put behind it. Not any word: step5-tmp and step5-old are no checkpoints.
    r"(?:[-_](?:unsharded|hf|ckpt|checkpoint|model|tokens\d+[KMBT]?))?"
)


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint:
    """A folder or file of a run whose name tells a step."""

    step: int
    """The step, as its name tells it."""
    path: Path
    """The folder or file."""


def step_of(name: str) -> int | None:
    """Return the step that a name tells; None if it tells none.

    Such as `checkpoint-500`, `step-00001000`, `step1000-unsharded` or `iter-000100-ckpt.pth`.
    """
    for suffix in STATE_DICT_SUFFIXES:
        name = name.removesuffix(suffix)
    match = _NAME.fullmatch(name)
    return int(match[1] or match[2]) if match else None


def find_checkpoints(run: Path) -> tuple[RunCheckpoint, ...]:
    """List the checkpoints of a run by step: folders, or files of weights, named after their step.

    Raises:
        InputError: `run` is no folder, or names two checkpoints with one step.
    """
    if not run.is_dir():
        raise InputError(f"run {run} is no folder; name the folder that holds the checkpoints.")
    found: dict[int, Path] = {}
    for path in sorted(run.iterdir()):
        step = step_of(path.name)
        if step is None or not (path.is_dir() or path.suffix in STATE_DICT_SUFFIXES):
            continue
        if step in found:
            raise InputError(
                f"run {run} holds {found[step].name} and {path.name}, both of step {step}; name the "
                "checkpoints themselves instead of the run."
            )
        found[step] = path
    return tuple(RunCheckpoint(step=step, path=found[step]) for step in sorted(found))


def marks_of(checkpoints: Iterable[Path]) -> set[str]:
    """Return which of `TRAINER_MARKS` any of a run's checkpoints has: the others should, too.

    A run of Trainer with `save_only_model` leaves no optimizer, and other programs leave neither.
    """
    found: set[str] = set()
    for path in checkpoints:
        if (path / TRAINER_STATE).exists() or (path / _ARGUMENTS).exists():
            found.add(TRAINER_STATE)
        if _has_optimizer(path):
            found.add(OPTIMIZER)
    return found


def incompleteness(path: Path, *, marks: Collection[str] = TRAINER_MARKS) -> str | None:
    """Return what a checkpoint lacks to be complete, as the end of a sentence; None if nothing.

    Args:
        path: a checkpoint, as a folder or a file of weights.
        marks: what the checkpoint must have besides its weights, of `TRAINER_MARKS`. To resume,
            all of them; to read the weights alone, what `marks_of` finds in the run.
    """
    if (path / _INCOMPLETE).exists():
        return f"has a {_INCOMPLETE}"
    if TRAINER_STATE in marks:
        try:
            read_json(path / TRAINER_STATE)
        except BequestError:
            return f"has no readable {TRAINER_STATE}"
    if OPTIMIZER in marks and not _has_optimizer(path):
        return "has no optimizer state"
    try:
        open_weights(path)
    except BequestError as error:
        return f"is not whole ({str(error).rstrip('.')})"
    return None


def _has_optimizer(path: Path) -> bool:
    return any(True for pattern in _OPTIMIZERS for _ in path.glob(pattern))
