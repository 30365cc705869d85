"""The example's YAML runs as it stands, on a smaller model and for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from bequest.cli.main import main
from training.tiny_pretraining import texts, write_texts

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pretrain.yaml"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts.jsonl", texts(60))
    smaller = {
        "train-tokenizer": 280,
        "block-length": 32,
        "model-config.hidden_size": 16,
        "model-config.num_hidden_layers": 2,
        "training.max_steps": 6,
        "training.per_device_train_batch_size": 2,
        "averages.lawa.spacing": 2,
        "training.eval_steps": 3,
    }
    words = [word for name, value in smaller.items() for word in (f"--{name}", str(value))]
    assert main(["pretrain", "--config", str(EXAMPLE), *words, "--quiet"]) == 0
    results = json.loads((tmp_path / "small" / "results.json").read_text())
    assert results["sections"][0]["title"] == "Held out"
    assert [row[0] for row in results["sections"][0]["data"]["rows"]] == ["trained", "lawa", "ema"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.num_hidden_layers == 2
