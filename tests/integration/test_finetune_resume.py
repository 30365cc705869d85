"""Killed at any moment and started again, a run ends with the bytes of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from training.tiny_finetune import config_file, make_inputs
from zoo.command import environment

SCRIPT = Path(__file__).with_name("finetune_kill_run.py")
KILLED, INTERRUPTED = -signal.SIGKILL, 130

FULL = {
    "averages": {"lawa": {"window": 2, "spacing": 2}, "ema": {"beta": 0.8}},
    "training": {"save_steps": 3, "lr_scheduler_type": "cosine", "warmup_steps": 2},
}
LORA = {"lora": {"r": 4, "lora_dropout": 0.2}, "training": {"save_steps": 3, "packing": True}}
KILLS: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "whole": (FULL, []),
    "in_a_step": (FULL, [("step", 5), ("step", 8)]),
    "before_the_first_save": (FULL, [("step", 2)]),
    "in_the_optimizer": (FULL, [("archive", 5)]),
    "in_the_first_save": (FULL, [("file", 8)]),
    "by_ctrl_c": (FULL, [("interrupt", 7)]),
    "lora": (LORA, []),
    "lora_in_a_step": (LORA, [("step", 6)]),
}


def logged(out: Path) -> list[dict[str, Any]]:
    """What the last checkpoint says of every step, but for times."""
    checkpoints = sorted(Path(f"{out}.run").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    # TRL counts tokens anew in each process.
    passing = ("runtime", "per_second", "num_tokens")
    return [{k: v for k, v in entry.items() if not k.endswith(passing)} for entry in history]


def test_killed_and_resumed(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    scenarios = {}
    for name, (settings, kills) in KILLS.items():
        file = config_file(tmp_path / f"{name}.yaml", inputs, **settings)
        scenarios[name] = {"words": ["--config", str(file)], "kills": kills}
    (tmp_path / "scenarios.json").write_text(json.dumps(scenarios))
    paths = [environment()["PYTHONPATH"], str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "scenarios.json"), str(tmp_path)],
        env={**environment(), "PYTHONPATH": os.pathsep.join(paths)},
        timeout=500,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    codes = json.loads((tmp_path / "codes.json").read_text())
    for name, (settings, kills) in KILLS.items():
        log = (tmp_path / f"{name}.log").read_text()
        expected = [INTERRUPTED if what == "interrupt" else KILLED for what, _ in kills]
        assert codes[name] == [*expected, 0], log[-4000:]
        reference = tmp_path / ("lora" if settings is LORA else "whole")
        own = tmp_path / name
        weights = "adapter_model.safetensors" if settings is LORA else "model.safetensors"
        assert (own / weights).read_bytes() == (reference / weights).read_bytes(), name
        assert logged(own) == logged(reference), name
        if settings is FULL:
            for average in ("lawa", "ema"):
                member = f"checkpoint-10/averaging/{average}/model.safetensors"
                pair = [Path(f"{folder}.run") / member for folder in (own, reference)]
                assert pair[0].read_bytes() == pair[1].read_bytes(), (name, average)
        # Scored once, however often it was started.
        scored = Path(f"{own}.run") / "scores.parquet"
        assert scored.is_file() and log.count("lines read") == 0
    assert "was left out and removed" in (tmp_path / "in_the_optimizer.log").read_text()
    assert "goes on from checkpoint-6" in (tmp_path / "in_a_step.log").read_text()
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert not left
