"""Killed with SIGKILL at any moment and run again, pre-training ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bequest

SCRIPT = Path(__file__).with_name("pretrain_kill_run.py")
KILLS = {
    "between saves": ["step:5"],
    "before the first save": ["step:2"],
    "while tokenizing": ["tokenize"],
    "in the model of a save": ["save:6:model"],
    "in the optimizer of a save": ["save:6:optimizer"],
    "before the last file of a save": ["save:6:generators"],
    "in the last file of a save": ["save:6:state"],
    "in the last save": ["save:10:state"],
    "before it is published": ["publish"],
    "again and again": ["step:4", "save:6:optimizer", "step:7", "save:9:model", "publish"],
}
"""When each run is killed, one death after another."""


def write_texts(file: Path) -> None:
    words = random.Random(0)
    with file.open("w") as stream:
        for _ in range(30):
            text = " ".join("".join(words.choices("abcde", k=4)) for _ in range(12))
            stream.write(json.dumps({"text": text}) + "\n")


def config(folder: Path, data: Path) -> dict[str, Any]:
    return {
        "out": str(folder / "out"),
        "data": str(data),
        "held_out_fraction": 0.2,
        "train_tokenizer": 270,
        "block_length": 32,
        # Dropout draws random numbers at each step; an epoch has five steps, the last a short one.
        "model_config": {
            "model_type": "gpt2",
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 32,
        },
        "schedule": "wsd",
        "averages": {
            "lawa": {"window": 2, "spacing": 2},
            "ema": {"beta": 0.9},
            "swa": {"start": 5, "every": 2},
        },
        "weights": "lawa",
        "training": {
            "max_steps": 10,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "logging_steps": 1,
            "save_steps": 3,
            "eval_steps": 4,
            "learning_rate": 0.01,
        },
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of an uninterrupted run, and those of runs that were killed and run again."""
    root = tmp_path_factory.mktemp("killed")
    write_texts(root / "texts.jsonl")
    folders = {name: root / f"run-{number}" for number, name in enumerate(["whole", *KILLS])}
    jobs: list[dict[str, Any]] = []
    expected = []
    for name, folder in folders.items():
        folder.mkdir()
        for kill in [*KILLS.get(name, []), None]:
            jobs.append({"config": config(folder, root / "texts.jsonl"), "kill": kill})
            expected.append(0 if kill is None else -signal.SIGKILL)
    (root / "jobs.json").write_text(json.dumps(jobs))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(root / "hub"),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(root / "jobs.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == expected, done.stderr
    return folders


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Everything that was logged at each step but times."""
    state = json.loads((folder / "out.run" / "checkpoint-10" / "trainer_state.json").read_text())
    timed = ("per_second", "mfu", "runtime")
    return [
        {key: value for key, value in entry.items() if not key.endswith(timed)}
        for entry in state["log_history"]
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything but what holds times, or the folder's own name."""
    checkpoint = folder / "out.run" / "checkpoint-10"
    found = {}
    for inner in (folder / "out", checkpoint, folder / "out.run" / "averaging"):
        for file in inner.rglob("*"):
            named = file.name in ("results.json", "bequest.json", "training_args.bin")
            if file.is_file() and not named and file.name != "trainer_state.json":
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


@pytest.mark.parametrize("name", KILLS)
def test_killed_and_run_again(runs: dict[str, Path], name: str) -> None:
    whole, killed = files_of(runs["whole"]), files_of(runs[name])
    for part in ("out/model", "optimizer.pt", "rng_state.pth", "ema-shadow", "averaging/step-10"):
        assert any(part in file for file in whole), part
    assert sorted(killed) == sorted(whole)
    assert [file for file in whole if killed[file] != whole[file]] == []
    assert log_of(runs[name]) == log_of(runs["whole"])
    assert [e["step"] for e in log_of(runs[name]) if "loss" in e] == list(range(1, 11))
    leftovers = [path.name for path in runs[name].iterdir()]
    assert sorted(leftovers) == ["out", "out.run"]
