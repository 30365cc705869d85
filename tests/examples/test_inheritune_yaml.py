"""The example's YAML runs as it stands, on a tiny reference and for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from bequest.cli.main import main
from training.tiny_inheritune import write_reference

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "inheritune.yaml"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_reference(tmp_path)
    smaller = {
        "reference": "reference",
        "start-depth": 3,
        "blocks-per-round": 1,
        "max-rounds": 1,
        "pretrain.block_length": 32,
        "pretrain.training.max_steps": 4,
        "pretrain.training.per_device_train_batch_size": 2,
        "pretrain.training.eval_steps": 4,
        "pretrain.averages.lawa.spacing": 1,
    }
    words = [word for name, value in smaller.items() for word in (f"--{name}", str(value))]
    assert main(["inheritune", "--config", str(EXAMPLE), *words, "--quiet"]) == 0
    out = tmp_path / "inheritune"
    table = json.loads((out / "results.json").read_text())["sections"][0]["data"]
    assert [row[0] for row in table["rows"]] == ["reference", "round 1", "scratch"]
    assert {"loss, trained", "loss, lawa"} < set(table["columns"])
    student = AutoModelForCausalLM.from_pretrained(out / "round-01" / "model")
    assert student.config.num_hidden_layers == 3
