"""`bequest inheritune` with all of its baselines on real text; broken off, it goes on.

    python -m experiments.inheritance          # trains the reference
    OMP_NUM_THREADS=1 python -m experiments.inheritance.rivals

keeps the run's `results.json` among the cells, from which the report makes its table.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bequest.cli.main import main as bequest
from experiments.inheritance.command_tables import RIVALS
from experiments.inheritance.data import CACHE, ROOT, held_out_file, training_file

CONFIG = Path(__file__).with_name("rivals.yaml")


def main() -> int:
    """Run it, and keep its results."""
    os.chdir(ROOT)
    training_file()
    held_out_file(500)
    code = bequest(["inheritune", "--config", str(CONFIG)])
    if code == 0:
        shutil.copyfile(CACHE / "rivals" / "results.json", RIVALS)
    return code


if __name__ == "__main__":
    sys.exit(main())
