"""Which checkpoints of a run make a window: its size, its spacing and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bequest.errors import InputError

DEFAULT_WINDOW = 5
"""Checkpoints in an average, as in the LAWA paper (arXiv 2306.03241)."""

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many checkpoints an average takes, and how far apart."""

    size: int = DEFAULT_WINDOW
    """Checkpoints, at least 1."""
    spacing: int | None = None
    """Steps between them; None takes the checkpoints next to one another, as they are."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"window is {self.size}: an average needs at least 1 checkpoint.")
        if self.spacing is not None and self.spacing < 1:
            raise InputError(f"spacing is {self.spacing}: give the steps between checkpoints.")

    def ending_at(self, end: int, steps: Sequence[int]) -> tuple[int, ...] | None:
        """Return the steps of the window that ends at `end`, oldest first; None if one is missing.

        Args:
            end: step of the newest member.
            steps: all steps there are, increasing.
        """
        if self.spacing is None:
            upto = [step for step in steps if step <= end][-self.size :]
            return tuple(upto) if len(upto) == self.size and upto[-1] == end else None
        wanted = tuple(end - self.spacing * age for age in range(self.size - 1, -1, -1))
        return wanted if set(wanted) <= set(steps) else None

    def oldest_needed(self, steps: Sequence[int]) -> int:
        """Return the oldest step that the newest window, or a later one, can still need.

        Args:
            steps: the steps there are, increasing; more may come after them.
        """
        if self.spacing is not None:
            return steps[-1] - self.spacing * (self.size - 1) if steps else 0
        return steps[-self.size] if len(steps) >= self.size else 0

    def ends(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Return every step at which a whole window ends, increasing."""
        return tuple(step for step in steps if self.ending_at(step, steps) is not None)


def choose(window: Window, steps: Sequence[int], end: int | None, *, run: str) -> tuple[int, ...]:
    """Return the steps of a run's window, or say why there is none.

    Args:
        window: what is wanted.
        steps: steps of the run's checkpoints, increasing.
        end: step of the newest member; None for the newest there is.
        run: the run's name, for messages.

    Returns:
        The members' steps, oldest first.

    Raises:
        InputError: the run has no such checkpoints.
    """
    if not steps:
        raise InputError(
            f"run {run} holds no checkpoints: no checkpoint-N, stepN or iterN folder or file."
        )
    newest = steps[-1] if end is None else end
    if newest not in steps:
        raise InputError(f"end is {end}, but run {run} has the steps {listed(steps)}.")
    chosen = window.ending_at(newest, steps)
    if chosen is not None:
        return chosen
    possible = window.ends(steps)
    advice = (
        f"give --end {' or '.join(map(str, possible[-3:]))}"
        if possible
        else "give a smaller --window or another --spacing"
    )
    if window.spacing is None:
        count = sum(step <= newest for step in steps)
        raise InputError(
            f"window is {window.size}, but run {run} has {count} checkpoints up to step {newest}; "
            f"{advice}."
        )
    wanted = (newest - window.spacing * age for age in range(window.size))
    missing = next(step for step in wanted if step not in steps)
    raise InputError(
        f"run {run} has no checkpoint of step {missing}, which a window of {window.size} with "
        f"spacing {window.spacing} ending at {newest} needs (it has {listed(steps)}); "
        f"{advice}."
    )


def listed(steps: Sequence[int]) -> str:
    """Write steps as text, shortened in the middle if there are many."""
    if len(steps) <= _SHOWN:
        return ", ".join(map(str, steps))
    shown = [*map(str, steps[: _SHOWN - 2]), "...", str(steps[-1])]
    return ", ".join(shown)
