"""Average a run while it trains, from outside: whatever the trainer, without changing a line of it.

A thread looks at the run's folder and takes every checkpoint as soon as it is complete; the main
thread makes the average that ends at each. All state is folders: a follower that died goes on where
it was.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bequest.averaging.alike import Member
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.build import build
from bequest.averaging.follow_plan import Following, averages_in
from bequest.averaging.holding import Holding, holding
from bequest.averaging.plan import AveragePlan, plan_of
from bequest.averaging.trajectory import Window
from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.formats import open_weights
from bequest.checkpoints.publish import check_target
from bequest.checkpoints.run import (
    TRAINER_STATE,
    RunCheckpoint,
    find_checkpoints,
    incompleteness,
    marks_of,
)
from bequest.errors import BequestError


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What a follower did until the run ended."""

    averages: tuple[Path, ...]
    """Folders of the averages it made, the last ones of which are still there."""
    steps: tuple[int, ...]
    """The step at which each ends."""


def follow(
    config: AverageConfig,
    *,
    keep: int = 1,
    poll: float = 5.0,
    report: Callable[[AveragePlan], object] = lambda plan: None,
    progress: bool = False,
) -> Followed:
    """Make the average that ends at each new checkpoint of a run, until the run ends.

    `OUT/members` holds the checkpoints of the current window by hard links; `OUT/step-N` is the
    average that ends at step N. Checkpoints that were there before are members, too; of the averages
    that they alone would make, only the newest is made. The run has ended when Trainer's state says
    so in its newest checkpoint, or when it has a complete checkpoint of the step `end` or later.

    Args:
        config: the run's folder, the folder to write, window, spacing and mixture.
        keep: how many averages stay in the folder; older ones are removed.
        poll: seconds between two looks at the run's folder.
        report: is told of each average.
        progress: show a bar for each.

    Raises:
        InputError: the request cannot be carried out.
        CheckpointError: a member holds NaN or Inf and `skip_bad` is not set.
        StorageError: the disk is full or failed; what was finished stays.
    """
    asked = Following.of(config, keep=keep, poll=poll)
    run, out, window = asked.run, asked.out, asked.window
    made: list[tuple[int, Path]] = []
    with (
        holding(out, run) as held,
        _Watcher(run, held, window, poll=poll, end=config.end) as watcher,
    ):
        while True:
            ended = watcher.wait()
            members = list(held.members())
            due = asked.due(members)
            for end in due:
                plan = _average(end, window, held, out, config, progress=progress)
                if plan is None:
                    continue
                made.append((end, plan.target))
                report(plan)
                _remove_old(out, keep)
            with watcher.taking:
                held.release_all_but(window, members)
            if ended and not due:
                break
    return Followed(averages=tuple(path for _, path in made), steps=tuple(step for step, _ in made))


class _Watcher:
    """The thread that takes checkpoints while averages are made."""

    def __init__(
        self, run: Path, held: Holding, window: Window, *, poll: float, end: int | None
    ) -> None:
        self._run, self._held, self._window = run, held, window
        self._poll, self._end = poll, math.inf if end is None else end
        self._thread = threading.Thread(target=self._watch, name="bequest-follow", daemon=True)
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._seen: dict[Path, object] = {}
        self._marks: set[str] = set()
        self._error: BaseException | None = None
        self._ended = False
        self.taking = threading.Lock()
        """Held while checkpoints are taken."""

    def __enter__(self) -> _Watcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def wait(self) -> bool:
        """Return when something was taken or the run has ended, and whether it has."""
        self._news.wait()
        # Cleared before anything is read: what comes after it sets it again.
        self._news.clear()
        if self._error is not None:
            raise self._error
        if self._ended:
            self._news.set()
        return self._ended

    def _watch(self) -> None:
        try:
            while not self._stopping.is_set() and not self._ended:
                with self.taking:
                    took = self._look()
                if took or self._ended:
                    self._news.set()
                self._stopping.wait(0 if self._ended else self._poll)
        except BaseException as error:  # The main thread raises it.
            self._error = error
            self._news.set()

    def _look(self) -> bool:
        """Take what is complete, new and of use; return whether there was any."""
        everything = find_checkpoints(self._run)
        for checkpoint in everything:
            with suppress(FileNotFoundError):  # The run may be deleting it.
                self._marks |= marks_of([checkpoint.path])
        # Looked at before those that count: once a later one is complete, they are.
        is_past = any(self._is_complete(c) for c in everything if c.step > self._end)
        found = [c for c in everything if c.step <= self._end]
        held = self._held.steps()
        oldest = self._window.oldest_needed(sorted(held))
        complete = [
            c for c in found if c.step in held or (c.step >= oldest and self._is_complete(c))
        ]
        oldest = self._window.oldest_needed(sorted({*held, *(c.step for c in complete)}))
        took = False
        for checkpoint in complete:
            if checkpoint.step not in held and checkpoint.step >= oldest:
                last = self._is_last(checkpoint)
                taken = self._held.take(checkpoint)
                is_past &= taken  # If not, it changed meanwhile: look again.
                took |= taken
                self._ended |= taken and last
        # After a restart the last checkpoint may have been taken before.
        self._ended |= bool(complete) and complete[-1].step in held and self._is_last(complete[-1])
        self._ended |= is_past
        return took

    def _is_complete(self, checkpoint: RunCheckpoint) -> bool:
        try:
            if not self._marks and not self._is_settled(checkpoint.path):
                return False
            return incompleteness(checkpoint.path, marks=self._marks) is None
        except FileNotFoundError:
            return False  # The run is deleting it.

    def _is_settled(self, path: Path) -> bool:
        """Whether a checkpoint without Trainer's marks looks as it did at the last look."""
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        state = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        before, self._seen[path] = self._seen.get(path), state
        return before == state

    def _is_last(self, checkpoint: RunCheckpoint) -> bool:
        if checkpoint.step >= self._end:
            return True
        try:
            state = read_json(checkpoint.path / TRAINER_STATE)
        except BequestError:
            return False
        last = state.get("max_steps")
        return isinstance(last, int) and 0 < last <= int(state.get("global_step", 0))


def _average(
    end: int, window: Window, held: Holding, out: Path, config: AverageConfig, *, progress: bool
) -> AveragePlan | None:
    """Make the average that ends at a step; None if a member was written to meanwhile."""
    paths = held.members()
    steps = window.ending_at(end, list(paths))
    if steps is None:
        return None
    target = check_target(out / f"step-{end}", overwrite=False)
    members = [Member(weights=open_weights(paths[step]), step=step) for step in steps]
    try:
        plan = build(plan_of(members, config.mixture, target, config.manner), progress=progress)
    except BequestError:
        if all(held.is_unchanged(paths[step]) for step in steps):
            raise
        return None
    if not all(held.is_unchanged(paths[step]) for step in steps):
        shutil.rmtree(target)
        return None
    return plan


def _remove_old(out: Path, keep: int) -> None:
    for _, path in sorted(averages_in(out).items())[:-keep]:
        shutil.rmtree(path)
