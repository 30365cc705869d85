"""Folders that the commands themselves leave, of models of seconds, for reports to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bequest.cli.main import main
from training.tiny_pretraining import settings, texts, write_texts
from training.tiny_sft import save_model


def make_runs(folder: Path) -> list[Path]:
    """Inherit, pretrain the student, diagnose it, and evaluate all three models on two texts."""
    held = write_texts(folder / "held.jsonl", texts(12, seed=5))
    more = write_texts(folder / "more.jsonl", texts(12, seed=6))
    big = save_model(folder / "big")
    _run("inherit", big, folder / "student", "--layers", 1)
    averages = {"lawa": {"window": 2, "spacing": 2}, "ema": {"beta": 0.9}}
    start: dict[str, Any] = {"model_config": {}, "train_tokenizer": None, "averages": averages}
    asked = settings(folder, model=str(folder / "student"), out=str(folder / "trained"), **start)
    file = folder / "trained.yaml"
    file.write_text(yaml.safe_dump(asked), encoding="utf-8")
    _run("pretrain", "--config", file)
    diagnosed = [folder / "trained", "--texts", held, "--out", folder / "lazy"]
    _run("diagnose", *diagnosed, "--sequences", 4, "--length", 16)
    judged = [big, folder / "student", folder / "trained"]
    found = ["--texts", held, more, "--target", held.name, "--between", "--resamples", 200]
    _run("evaluate", *judged, *found, "--out", folder / "gains")
    return [folder / name for name in ("student", "trained", "lazy", "gains")]


def _run(*words: object) -> None:
    assert main([*map(str, words), "--quiet"]) == 0, words
