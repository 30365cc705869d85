"""The example runs, goes on after it was cut short, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bequest

SCRIPT = Path(__file__).parents[2] / "examples" / "averaging_loop.py"


def start(run: Path, steps: int) -> list[dict[str, float]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, "--run", run, "--steps", str(steps), "--save-every", "4"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_loop_of_ones_own(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", 12)
    assert [entry["step"] for entry in whole] == [4, 8, 12]
    assert all({"raw", "lawa", "ema"} <= entry.keys() for entry in whole)
    assert start(tmp_path / "cut", 4) == whole[:1]
    assert start(tmp_path / "cut", 12) == whole[1:]
