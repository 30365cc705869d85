"""What following a run asks for: the request checked, and what it would do at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bequest.averaging.alike import Member
from bequest.averaging.average_config import AverageConfig, require_out
from bequest.averaging.candidates import make_candidate
from bequest.averaging.forecast import Forecast
from bequest.averaging.holding import FOLDER, check_out
from bequest.averaging.sources import complete_checkpoints
from bequest.averaging.trajectory import DEFAULT_WINDOW, Window, listed
from bequest.checkpoints.formats import open_weights
from bequest.checkpoints.run import find_checkpoints
from bequest.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Following:
    """A request to follow a run."""

    run: Path
    """The run's folder."""
    out: Path
    """The folder to write."""
    window: Window
    """Of the averages."""

    @classmethod
    def of(cls, config: AverageConfig, *, keep: int, poll: float) -> Following:
        """Check a request.

        Raises:
            InputError: it cannot be carried out.
        """
        if len(config.sources) != 1 or config.repo is not None:
            raise InputError("sources must be one run's folder; name it, and the folder to write.")
        if keep < 1:
            raise InputError(f"keep is {keep}; at least the newest average stays.")
        if poll <= 0:
            raise InputError(f"poll is {poll}; give the seconds between two looks.")
        run = Path(config.sources[0]).expanduser()
        if not run.is_dir():
            raise InputError(
                f"run {run} is no folder; name the folder that will hold the checkpoints."
            )
        size = DEFAULT_WINDOW if config.window is None else config.window
        return cls(
            run=run,
            out=Path(require_out(config)).expanduser(),
            window=Window(size=size, spacing=config.spacing),
        )

    def due(self, members: list[int]) -> list[int]:
        """Return the steps at which an average can end and does not stand yet, increasing."""
        ends = self.window.ends(members)
        made = averages_in(self.out)
        if not made:
            return list(ends[-1:])
        return [end for end in ends if end > max(made)]


def averages_in(out: Path) -> dict[int, Path]:
    """Return the averages that stand in a follower's folder by the step at which they end."""
    return (
        {c.step: c.path for c in find_checkpoints(out) if c.path.is_dir()} if out.exists() else {}
    )


def plan_follow(config: AverageConfig, *, keep: int = 1, poll: float = 5.0) -> Forecast:
    """Plan what a follower would make of the checkpoints there are, without touching anything.

    Args:
        config: as for `follow`.
        keep: as for `follow`.
        poll: as for `follow`.

    Raises:
        InputError: the request cannot be carried out.
        StorageError: the disk cannot hold an average.
    """
    asked = Following.of(config, keep=keep, poll=poll)
    check_out(asked.out, asked.run)
    found, faults = complete_checkpoints(asked.run)
    paths = {c.step: c.path for c in found if c.step not in faults}
    held = asked.out / FOLDER
    paths |= {c.step: c.path for c in find_checkpoints(held)} if held.is_dir() else {}
    steps = sorted(step for step in paths if config.end is None or step <= config.end)
    windows = {end: asked.window.ending_at(end, steps) or () for end in asked.due(steps)}
    needed = sorted(set().union(*windows.values()))
    members = {step: Member(weights=open_weights(paths[step]), step=step) for step in needed}
    candidates = [
        make_candidate(picked, members, config, asked.out, f"step-{end}")
        for end, picked in windows.items()
    ]
    notes = [f"{c.path} is not taken yet: it {faults[c.step]}." for c in found if c.step in faults]
    if not candidates:
        notes.append(
            f"No average can be made yet: the complete steps are {listed(steps) or 'none'}."
        )
    return Forecast(
        target=asked.out,
        candidates=tuple(candidates),
        written=sum(candidate.plan.num_bytes for candidate in candidates[-keep:]),
        temporary=0,
        notes=(*notes, "Members are held by hard links, which take no space of their own."),
    )
