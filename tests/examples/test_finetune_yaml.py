"""The example's YAML file runs, with the names of things that are here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bequest.cli.main import main
from tests.training.tiny_finetune import make_inputs

FILE = Path(__file__).parents[2] / "examples" / "finetune.yaml"


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = make_inputs(tmp_path)
    inputs.data.rename(tmp_path / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    words = ["finetune", "--config", str(FILE), "--model", str(inputs.model)]
    words += ["--data.eval_fraction", "0.2", "--training.max_length", "64"]
    words += ["--training.max_steps", "2", "--training.eval_steps", "1", "--quiet"]
    assert main(words) == 0
    assert (tmp_path / "tuned" / "results.json").is_file()
    # What is commented out is right as well.
    lines = [line.removeprefix("# ") for line in FILE.read_text().splitlines()[2:]]
    whole = yaml.safe_load("\n".join(lines))
    whole["data"]["eval_fraction"] = 0.2
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    inputs.texts.rename(tmp_path / "held_out.jsonl")
    words = ["finetune", "--config", str(tmp_path / "whole.yaml"), "--model", str(inputs.model)]
    assert main([*words, "--out", "other", "--training.max_length", "64", "--dry-run"]) == 0
    assert "parameters trained" in capsys.readouterr().out
