"""Killed with SIGKILL at any moment and resumed, the averages end with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bequest

SCRIPT = Path(__file__).with_name("averaging_kill_run.py")
AVERAGES = ["lawa.safetensors", "ema.safetensors", "swa.safetensors"]


def start(run: Path, kill_step: int = 0, kill_bytes: int = -1) -> int:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    run.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(run), str(kill_step), str(kill_bytes)],
        env=environment,
        timeout=120,
    ).returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    assert start(run) == 0
    return run


# One model is 16 KB of float32: the byte counts fall into a member, a shadow, or the state.
@pytest.mark.parametrize(
    "kills",
    [
        [(7, -1)],  # inside a window
        [(12, -1)],  # right after a save
        [(2, -1), (9, -1)],  # before the first save, then again
        [(9, 5_000)],  # inside a member
        [(12, 5_000)],  # inside the member of a step that saves
        [(12, 20_000)],  # inside a shadow of the save
        [(8, 33_500)],  # inside the state of the save
        [(11, 60_000), (13, 1)],
    ],
    ids=str,
)
def test_killed_and_resumed(
    uninterrupted: Path, tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    for step, bytes_left in kills:
        assert start(tmp_path, step, bytes_left) == -signal.SIGKILL
    assert start(tmp_path) == 0
    for name in AVERAGES:
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()
    leftovers = [file.name for file in (tmp_path / "averaging").iterdir()]
    assert sorted(leftovers) == sorted(f.name for f in (uninterrupted / "averaging").iterdir())
