"""Texts and configurations for runs of seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}


def texts(count: int = 30, seed: int = 0) -> list[str]:
    words = random.Random(seed)
    return [
        " ".join("".join(words.choices("abcdé", k=4)) for _ in range(words.randint(3, 20)))
        for _ in range(count)
    ]


def write_texts(file: Path, lines: list[str] | None = None) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines or texts()))
    return file


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """The fields of a configuration; `training` is added to, not replaced."""
    if not (folder / "texts.jsonl").exists():
        write_texts(folder / "texts.jsonl")
    training = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "eval_steps": 2,
        "save_steps": 2,
        **changes.pop("training", {}),
    }
    return {
        "out": str(folder / "out"),
        "data": str(folder / "texts.jsonl"),
        "held_out_fraction": 0.3,
        "train_tokenizer": 270,
        "block_length": 16,
        "model_config": LLAMA,
        "training": training,
        **changes,
    }
