"""A training run as a process: checkpoints in Trainer's order of writing, the oldest rotated away.

Arguments: the run's folder, and the seconds between two checkpoints.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from averaging import runs


def main(run: Path, pause: float) -> None:
    """Write every step of the run and keep two checkpoints, as with `save_total_limit=2`."""
    for position, step in enumerate(runs.STEPS):
        runs.write_trainer_checkpoint(run, step)
        if position >= 2:
            shutil.rmtree(run / f"checkpoint-{runs.STEPS[position - 2]}")
        time.sleep(pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
