"""Inputs for tests of `bequest finetune`: a tiny model, word sums, text to retain, a YAML file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.tiny_sft import save_model, write_json_lines

ROWS = [
    {"prompt": f"What is {a} + {b}?", "completion": f" {a} and {b} make {a + b}."}
    for a, b in zip(range(3, 43), range(57, 17, -1), strict=True)
]
TEXTS = [{"text": "The sky over the harbour was the colour of slate. " * 3}, {"text": "So it is."}]


@dataclass(frozen=True)
class Inputs:
    """Where the inputs are."""

    model: Path
    data: Path
    texts: Path


def make_inputs(folder: Path) -> Inputs:
    """Write them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Inputs(
        save_model(folder / "model"),
        write_json_lines(folder / "data.jsonl", ROWS),
        write_json_lines(folder / "texts.jsonl", TEXTS),
    )


def settings(inputs: Inputs, **changes: Any) -> dict[str, Any]:
    """A configuration of ten steps, without `out`; mappings are merged with it."""
    base: dict[str, Any] = {
        "model": str(inputs.model),
        "data": {"train": str(inputs.data), "eval_fraction": 0.2},
        "training": {
            "learning_rate": 1e-3,
            "max_steps": 10,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 5,
            "max_length": 64,
        },
        "retention": {"texts": str(inputs.texts)},
    }
    for name, value in changes.items():
        merges = isinstance(value, dict) and isinstance(base.get(name), dict)
        base[name] = {**base[name], **value} if merges else value
    return json.loads(json.dumps(base))


def config_file(file: Path, inputs: Inputs, **changes: Any) -> Path:
    """Write a configuration as YAML."""
    file.write_text(yaml.safe_dump(settings(inputs, **changes)))
    return file
