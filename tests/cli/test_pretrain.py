"""`bequest pretrain` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml

import bequest
from bequest.cli.main import main
from bequest.losses.processes import leave_processes
from training.tiny_pretraining import settings


def write_config(folder: Path, **changes: Any) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings(folder, **changes)))
    return file


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["pretrain", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_and_its_second_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(tmp_path)
    code, told, _ = run("--config", file, "--dry-run", capsys=capsys)
    assert code == 0 and "parameters" in told and "Nothing was written" in told
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()
    code, told, _ = run("--config", file, capsys=capsys)
    assert code == 0 and "bits per byte" in told and "eval_loss" in told and "mfu" in told
    code, told, err = run("--config", file, capsys=capsys)
    assert code == 2 and "exists; name another folder or pass --overwrite" in err
    assert err.count("\n") == 1 and told == ""
    words = ["--overwrite", "--training.max_steps", 2, "--json"]
    code, told, err = run("--config", file, *words, capsys=capsys)
    assert (code, err) == (0, "")
    assert json.loads(told) == json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--training.optim", "nothing"], "training is not what TrainingArguments takes"),
        (["--training.learning_rate", "quick"], "training.learning_rate is 'quick'; give a number"),
        (["--averages.ema.bet", "0.9"], "averages.ema got an unexpected keyword argument 'bet'"),
        (["--model-config.hidden", "8"], "model_config has 'hidden'"),
        (["--data", "nowhere.txt"], "data nowhere.txt does not exist"),
        (["--model", "no/such/place", "--from-scratch"], "model no/such/place does not exist"),
        (["--run-dir", "."], "holds something that is no run of bequest"),
    ],
)
def test_wrong_input_is_one_sentence(
    tmp_path: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, told, err = run("--config", file, *words, capsys=capsys)
    assert (code, told) == (2, "")
    assert sentence in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--dry-run"], 0), (["--quiet"], 0), (["--training.optim", "nothing"], 2)],
    ids=["planned", "trained", "refused"],
)
def test_it_leaves_the_process_group(tmp_path: Path, words: list[str], code: int) -> None:
    """A process that ends as a member of a group may hang in torch's threads."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert main(["pretrain", "--config", str(write_config(tmp_path)), *words]) == code
        assert not dist.is_initialized()
    finally:
        leave_processes()


def test_an_unknown_field_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(tmp_path, lerning_rate=3)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--config", str(file)])
    assert ended.value.code == 2 and "lerning_rate" in capsys.readouterr().err


def test_interrupted_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C after the first checkpoint; then the same command."""
    file = write_config(tmp_path, training={"max_steps": 400, "save_steps": 2, "eval_steps": 400})
    program = "import sys; from bequest.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "pretrain", "--config", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(bequest.__file__).parents[1])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        if any(tmp_path.glob("out.run/checkpoint-*/trainer_state.json")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on after step" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
    step = err.split("after step ")[1].split(".")[0]
    code, told, _ = run("--config", file, "--dry-run", capsys=capsys)
    (line,) = [line for line in told.splitlines() if "goes on after step" in line]
    assert code == 0 and line.split()[-1] == step
