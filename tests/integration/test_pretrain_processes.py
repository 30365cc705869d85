"""`bequest pretrain` under torchrun: two processes train what one does, and go on exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from bequest.training.held_out_losses import read_losses
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain
from bequest.training.resumable import held
from training.tiny_pretraining import settings
from zoo.command import environment

WORKER = Path(__file__).with_name("finetune_worker.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def config(folder: Path, name: str, batch_size: int) -> dict[str, Any]:
    training = {
        "max_steps": 6,
        "save_steps": 3,
        "eval_steps": 3,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 2,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 0.5,
    }
    averages = {"lawa": {"window": 2, "spacing": 2}, "ema": {"beta": 0.5}}
    return settings(folder, out=str(folder / name), averages=averages, training=training)


def run_two(folder: Path, name: str, kill: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in two processes, killed in the micro-batch of each that `kill` numbers."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config(folder, name, 1), sort_keys=False))
    return subprocess.run(
        [*TORCHRUN, str(WORKER), "pretrain", "--config", str(file)],
        env={**environment(), "KILL_AT_MICRO_BATCH": kill},
        timeout=800,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `two`, which two processes trained."""
    folder = tmp_path_factory.mktemp("processes")
    done = run_two(folder, "two")
    assert done.returncode == 0, done.stderr[-4000:]
    # The first process speaks for both.
    assert done.stdout.count("goes on after step") == 1
    return folder


@pytest.mark.timeout(900)
def test_two_processes_are_one(folder: Path) -> None:
    one = run_pretrain(plan_pretrain(PretrainConfig(**config(folder, "one", 2))))
    two = read_losses(folder / "two")
    assert list(two) == ["trained", "lawa", "ema"] == list(one.losses)
    for name, losses in two.items():
        np.testing.assert_allclose(
            losses.token_losses, one.losses[name].token_losses, rtol=1e-4, atol=1e-5
        )
    weights = load_file(folder / "two" / "model.safetensors")
    start = plan_pretrain(PretrainConfig(**config(folder, "start", 2))).start.load(42).state_dict()
    for name, tensor in load_file(one.folder / "model.safetensors").items():
        apart = (weights[name] - tensor).abs().max()
        assert apart < 2e-6 and apart < (tensor - start[name]).abs().max() / 100, name
    logged = {entry["step"]: entry["loss"] for entry in one.log if "loss" in entry}
    assert len(logged) == 6
    for entry in log_of(folder / "two.run"):
        if "loss" in entry:
            assert entry["loss"] == pytest.approx(logged[entry["step"]], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_killed_and_run_again(folder: Path) -> None:
    done = run_two(folder, "killed", kill="10")
    assert done.returncode != 0 and not (folder / "killed").exists()
    with held(folder / "killed.run"):
        done = run_two(folder, "killed")
    # Both processes are told, instead of waiting for each other.
    assert done.returncode != 0 and done.stderr.count("in use by another process") == 2
    done = run_two(folder, "killed")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "goes on from checkpoint-3" in done.stdout
    assert log_of(folder / "killed.run") == log_of(folder / "two.run")
    compared = 0
    for part in ("{}", "{}.run/checkpoint-6", "{}.run/averaging"):
        whole, killed = folder / part.format("two"), folder / part.format("killed")
        for file in whole.rglob("*"):
            if file.suffix in (".safetensors", ".pt", ".pth"):
                other = killed / file.relative_to(whole)
                assert file.read_bytes() == other.read_bytes(), file
                compared += 1
    assert compared >= 8


def log_of(run: Path) -> list[dict[str, Any]]:
    """What was logged at each step, but for times."""
    history = json.loads((run / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    passing = ("runtime", "per_second", "mfu")
    return [{k: v for k, v in entry.items() if not k.endswith(passing)} for entry in history]
