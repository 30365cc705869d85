"""Averages under real FSDP2 and under data parallelism, two processes over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bequest

SCRIPT = Path(__file__).with_name("averaging_fsdp_run.py")


def test_sharded_averages_equal_the_unsharded_in_every_bit(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", "2", str(SCRIPT), str(tmp_path)],
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
