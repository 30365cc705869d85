"""The checkpoints that a request names, found and opened: of a run, given one by one, or of the hub."""

from __future__ import annotations

from pathlib import Path

from bequest.averaging.alike import Member
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.trajectory import DEFAULT_WINDOW, Window, choose
from bequest.checkpoints.formats import open_weights
from bequest.checkpoints.run import (
    RunCheckpoint,
    find_checkpoints,
    incompleteness,
    marks_of,
    step_of,
)
from bequest.errors import CheckpointError, InputError


def open_members(config: AverageConfig) -> tuple[list[Member], list[str]]:
    """Open the checkpoints that a request names, oldest first.

    Returns:
        The members, and sentences that the user must read.

    Raises:
        InputError: there are no such checkpoints, or one is not complete.
    """
    if config.repo is not None:
        return _open_revisions(config), []
    if config.revisions is not None:
        raise InputError(
            f"revisions is {config.revisions!r} without a repository; give --repo, too."
        )
    if not config.sources:
        raise InputError(
            "sources is empty; name a run's folder, or checkpoints, and then the folder to write."
        )
    if len(config.sources) == 1:
        return _open_run(config)
    return _open_given(config), []


def complete_checkpoints(
    run: Path, marks: set[str] | None = None
) -> tuple[list[RunCheckpoint], dict[int, str]]:
    """List a run's checkpoints, and what those that are not complete lack, by step.

    Args:
        run: the run's folder.
        marks: what each must have besides weights; found in the run if None.
    """
    found = find_checkpoints(run)
    marks = marks_of(checkpoint.path for checkpoint in found) if marks is None else marks
    faults = {c.step: incompleteness(c.path, marks=marks) for c in found}
    return list(found), {step: fault for step, fault in faults.items() if fault is not None}


def _open_run(config: AverageConfig) -> tuple[list[Member], list[str]]:
    run = Path(config.sources[0]).expanduser()
    size = DEFAULT_WINDOW if config.window is None else config.window
    window = Window(size=size, spacing=config.spacing)
    found = {checkpoint.step: checkpoint.path for checkpoint in find_checkpoints(run)}
    marks = marks_of(found.values())
    notes = []
    usable = sorted(found)
    # A run that is going on, or that was killed, may end in a checkpoint that is not whole.
    while config.end is None and usable:
        fault = incompleteness(found[usable[-1]], marks=marks)
        if fault is None:
            break
        notes.append(f"{found[usable.pop()]} was left out: it {fault}.")
    if found and not usable:
        raise CheckpointError(f"run {run} has no complete checkpoint: {notes[0]}")
    steps = choose(window, usable, config.end, run=str(run))
    for step in steps:
        fault = incompleteness(found[step], marks=marks)
        if fault is not None:
            raise CheckpointError(f"{found[step]} {fault}; name a window without it.")
    return [Member(weights=open_weights(found[step]), step=step) for step in steps], notes


def _open_given(config: AverageConfig) -> list[Member]:
    _refuse_window(config, "checkpoints given one by one", len(config.sources))
    members = []
    for source in config.sources:
        name, _, revision = source.partition("@") if not Path(source).exists() else (source, "", "")
        weights = open_weights(name, revision=revision or None)
        members.append(Member(weights=weights, step=step_of(revision or Path(source).name)))
    steps = [member.step for member in members if member.step is not None]
    if len(steps) == len(members) and steps != sorted(set(steps)):
        raise InputError(
            f"sources have the steps {', '.join(map(str, steps))}; name them oldest first and once."
        )
    return members


def _open_revisions(config: AverageConfig) -> list[Member]:
    if config.sources:
        raise InputError(
            f"repo is {config.repo!r}, and sources {', '.join(config.sources)}: give one of them."
        )
    revisions = [name.strip() for name in (config.revisions or "").split(",") if name.strip()]
    if not revisions:
        raise InputError("revisions is empty; give them oldest first, such as step1000,step2000.")
    _refuse_window(config, "revisions", len(revisions))
    return [
        Member(
            weights=open_weights(str(config.repo), revision=revision),
            step=step_of(revision),
        )
        for revision in revisions
    ]


def _refuse_window(config: AverageConfig, what: str, count: int) -> None:
    for field in ("spacing", "end"):
        if getattr(config, field) is not None:
            raise InputError(
                f"{field} is {getattr(config, field)}, but {what} are averaged as they are named; "
                "leave it out."
            )
    if config.window not in (None, count):
        raise InputError(f"window is {config.window}, but there are {count} {what}.")
