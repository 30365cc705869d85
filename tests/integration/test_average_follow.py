"""`bequest average --follow` beside a real Trainer that keeps one checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from averaging import runs
from bequest.averaging.coefficients import coefficient_vector
from bequest.checkpoints.run import find_checkpoints
from zoo.command import command_line, environment


def test_a_trainer_that_keeps_one_checkpoint(tmp_path: Path) -> None:
    run, copies, out = tmp_path / "run", tmp_path / "copies", tmp_path / "out"
    run.mkdir()
    script = Path(__file__).with_name("average_trainer_run.py")
    surroundings = environment()
    surroundings["PYTHONPATH"] += os.pathsep + str(script.parents[1])
    follower = subprocess.Popen(
        command_line(
            *("average", run, out, "--follow", "--window", 3, "--spacing", 2),
            *("--poll", 0.05, "--keep", 9),
        ),
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    subprocess.run(
        [sys.executable, str(script), str(run), str(copies)],
        check=True,
        env=surroundings,
        capture_output=True,
    )
    printed, errors = follower.communicate(timeout=120)
    assert (follower.returncode, errors) == (0, ""), printed
    assert [c.step for c in find_checkpoints(run)] == [12]
    made = [c.step for c in find_checkpoints(out)]
    assert made[-1] == 12
    for end in made:
        states = [runs.read(copies / f"checkpoint-{step}") for step in (end - 4, end - 2, end)]
        exact = runs.exact_average(states, coefficient_vector("uniform", 3))
        runs.same_bits(runs.read(out / f"step-{end}"), exact, torch.float32)
    AutoModelForCausalLM.from_pretrained(out / "step-12")
