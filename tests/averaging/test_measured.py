"""Losses that are remembered: found again for the same models, and for no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from averaging import runs
from bequest.averaging.average import plan_average
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.measured import MeasuredLosses
from bequest.checkpoints import model_identity


def change_last_row(file: Path) -> None:
    """What training the embeddings of added tokens changes: far from where the tensor begins."""
    state = load_file(file)
    state["model.embed_tokens.weight"][-1, -1] += 1
    save_file(state, file, metadata={"format": "pt"})


def test_a_loss_belongs_to_every_byte_it_was_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_identity, "_SETTLED_SECONDS", 0.0)
    run, target = tmp_path / "run", tmp_path / "out"
    for step in (100, 200):
        runs.write_trainer_checkpoint(run, step)
        runs.model(step, vocab_size=512).save_pretrained(run / f"checkpoint-{step}")
    tokenizer = run / "checkpoint-200" / "tokenizer.json"
    tokenizer.write_text("{}")

    def known() -> float | None:
        plan = plan_average(AverageConfig(sources=(str(run),), out=str(target), window=2))
        return MeasuredLosses(target, lambda _: 0.5, "text").known(plan)

    plan = plan_average(AverageConfig(sources=(str(run),), out=str(target), window=2))
    losses = MeasuredLosses(target, lambda _: 0.5, "text")
    assert losses.known(plan) is None and losses.measure(plan, tmp_path) == 0.5
    assert known() == 0.5
    weights = run / "checkpoint-100" / "model.safetensors"
    before = weights.read_bytes()
    change_last_row(weights)
    assert known() is None
    weights.write_bytes(before)
    assert known() == 0.5
    # Another tokenizer reads the same text as other tokens.
    tokenizer.write_text('{"version": "1.0"}')
    assert known() is None
    losses.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
