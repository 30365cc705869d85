"""Killed at any moment and started again, a run ends with the bytes of one that never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.tiny_finetune import config_file, make_inputs
from zoo.command import environment

SCRIPT = Path(__file__).with_name("finetune_kill_run.py")
KILLED, INTERRUPTED = -signal.SIGKILL, 130

FULL = {
    "averages": {"lawa": {"window": 2, "spacing": 2}, "ema": {"beta": 0.8}},
    "training": {"save_steps": 3, "lr_scheduler_type": "cosine", "warmup_steps": 2},
}
LORA = {"lora": {"r": 4, "lora_dropout": 0.2}, "training": {"save_steps": 3, "packing": True}}
METHOD = {
    "method": {"scheme": "flow-token", "l2": 10.0, "kl": 0.1, "sfa": 2, "wise_ft": 0.5},
    "training": {"save_steps": 4},
}
PUBLISHING = "bequest.training.finetune.publish"
LAST_FILE = "bequest.training.finetune_publish.write_lineage"
SCORING = "bequest.training.score.write_scores"
Kills = dict[str, tuple[dict[str, Any], list[tuple[str, int]]]]
KILLS: Kills = {
    "whole": (FULL, []),
    "in_a_step": (FULL, [("step", 5), ("step", 8)]),
    "in_a_save": (FULL, [("archive", 9)]),
    "in_publishing": (FULL, [(LAST_FILE, 0)]),
    "lora_whole": (LORA, []),
    "lora_in_a_step": (LORA, [("step", 6)]),
    "method_whole": (METHOD, []),
    "method_in_a_step": (METHOD, [("step", 7)]),
}
MORE_KILLS: Kills = {
    "whole": (FULL, []),
    "before_the_first_save": (FULL, [("step", 2)]),
    "in_scoring": (FULL, [(SCORING, 0)]),
    "at_the_start": (FULL, [("file", 0), ("file", 1)]),
    "in_the_first_save": (FULL, [("file", 8), ("file", 12)]),
    "in_other_archives": (FULL, [("archive", 2), ("archive", 3), ("archive", 4)]),
    "by_ctrl_c": (FULL, [("interrupt", 7), ("interrupt", 9)]),
    "before_publishing": (FULL, [("step", 10), (PUBLISHING, 0), (PUBLISHING, 0)]),
}


def logged(out: Path) -> list[dict[str, Any]]:
    """What the last checkpoint says of every step, but for times."""
    checkpoints = sorted(Path(f"{out}.run").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    assert any("loss" in entry for entry in history)
    # TRL counts tokens anew in each process.
    passing = ("runtime", "per_second", "num_tokens")
    return [{k: v for k, v in entry.items() if not k.endswith(passing)} for entry in history]


def check(kills_of: Kills, folder: Path) -> dict[str, str]:
    """Carry out runs and compare those that were killed with the whole ones; return their logs."""
    inputs = make_inputs(folder / "inputs")
    scenarios = {}
    for name, (settings, kills) in kills_of.items():
        file = config_file(folder / f"{name}.yaml", inputs, **settings)
        scenarios[name] = {"words": ["--config", str(file)], "kills": kills}
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "scenarios.json"), str(folder)],
        env=environment(),
        timeout=1700,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    codes = json.loads((folder / "codes.json").read_text())
    logs = {name: (folder / f"{name}.log").read_text() for name in kills_of}
    for name, (settings, kills) in kills_of.items():
        expected = [INTERRUPTED if what == "interrupt" else KILLED for what, _ in kills]
        assert codes[name] == [*expected, 0], logs[name][-4000:]
        whole = {id(LORA): "lora_whole", id(METHOD): "method_whole"}.get(id(settings), "whole")
        compare(folder / name, folder / whole, settings)
        # Scored once, however often it was started.
        assert logs[name].count("scoring has ended") == 1
        assert logs[name].count("scoring begins") == 1 + (kills[:1] == [(SCORING, 0)])
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not hidden
    return logs


def compare(own: Path, reference: Path, settings: dict[str, Any]) -> None:
    """Hold a run to another one, bytes of weights and all."""
    weights = "adapter_model.safetensors" if settings is LORA else "model.safetensors"
    assert (own / weights).read_bytes() == (reference / weights).read_bytes(), own
    assert logged(own) == logged(reference), own
    for average in settings.get("averages", ()):
        member = f"checkpoint-10/averaging/{average}/model.safetensors"
        pair = [Path(f"{folder}.run") / member for folder in (own, reference)]
        assert pair[0].read_bytes() == pair[1].read_bytes(), (own, average)


@pytest.mark.timeout(1800)
def test_killed_and_resumed(tmp_path: Path) -> None:
    logs = check(KILLS, tmp_path)
    assert "goes on from checkpoint-6" in logs["in_a_step"]
    assert "was left out and removed" in logs["in_a_save"]
    assert "goes on from checkpoint-10" in logs["in_publishing"]
    assert logs["in_publishing"].count("step 10/10  loss") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_other_moments(tmp_path: Path) -> None:
    logs = check(MORE_KILLS, tmp_path)
    assert "the same command goes on" in logs["by_ctrl_c"]
    assert logs["before_publishing"].count("step 10/10  loss") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes(tmp_path: Path) -> None:
    """The same under torchrun, killed in all processes and resumed."""
    inputs = make_inputs(tmp_path / "inputs")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = Path(__file__).with_name("finetune_worker.py")
    outputs = []
    for name, kills in (("whole", [""]), ("killed", ["8", ""])):
        training = {"max_steps": 6, "save_steps": 3, "eval_steps": 3, "max_grad_norm": 1.0}
        training |= {"per_device_train_batch_size": 1}
        out = tmp_path / name
        file = config_file(tmp_path / f"{name}.yaml", inputs, out=str(out), training=training)
        for kill in kills:
            done = subprocess.run(
                [*words, str(worker), "finetune", "--config", str(file)],
                env={**environment(), "KILL_AT_MICRO_BATCH": kill},
                timeout=800,
                capture_output=True,
                text=True,
            )
            assert (done.returncode == 0) == (kill == ""), done.stderr[-4000:]
            assert out.exists() == (kill == "")
        outputs.append(done.stdout)
    compare(tmp_path / "killed", tmp_path / "whole", {})
    assert "goes on from checkpoint-3" in outputs[1]
    assert outputs[0].count("step 6/6  loss") == 1
