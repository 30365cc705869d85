"""A training run as a process: checkpoints in Trainer's order of writing, the oldest rotated away.

Arguments: the run's folder, the seconds between two checkpoints, and the folder in which a follower
keeps its members. The next checkpoint comes only when the follower holds this one: what is averaged
then depends on no machine's speed.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from averaging import runs


def main(run: Path, pause: float, members: Path) -> None:
    """Write every step of the run and keep two checkpoints, as with `save_total_limit=2`."""
    for position, step in enumerate(runs.STEPS):
        runs.write_trainer_checkpoint(run, step)
        if position >= 2:
            shutil.rmtree(run / f"checkpoint-{runs.STEPS[position - 2]}")
        wait_until_held(members / f"checkpoint-{step}")
        time.sleep(pause)


def wait_until_held(member: Path) -> None:
    """Return once a follower has taken the newest checkpoint."""
    deadline = time.monotonic() + 300
    while not member.is_dir():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody took {member.name}")
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
