"""A reference of a few thousand weights, and runs of inheritune that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from bequest.training.inheritune_config import InherituneConfig
from bequest.training.inheritune_plan import InheritunePlan, plan_inheritune
from bequest.training.tokenizer_training import train_tokenizer
from training.tiny_pretraining import texts, write_texts

STEPS = 4
SHAPE = {
    "vocab_size": 270,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def write_reference(folder: Path, **changes: Any) -> Path:
    """Write a random reference of four blocks, and texts beside it."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE | changes)).save_pretrained(folder / "reference")
    train_tokenizer(texts(), 270).save_pretrained(folder / "reference")
    write_texts(folder / "texts.jsonl")
    return folder


def settings(given: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The fields of a configuration; those of `pretrain` are added to."""
    training = {
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "eval_steps": 2,
        "save_steps": 2,
    }
    pretrain = {
        "data": str(given / "texts.jsonl"),
        "held_out_fraction": 0.3,
        "block_length": 16,
        "training": training,
        **changes.pop("pretrain", {}),
    }
    return {
        "reference": str(given / "reference"),
        "out": str(out),
        "steps_per_round": STEPS,
        "blocks_per_round": 1,
        "tolerance": -100.0,
        "pretrain": pretrain,
        **changes,
    }


def plan(given: Path, out: Path, **changes: Any) -> InheritunePlan:
    """Plan a run."""
    return plan_inheritune(InherituneConfig(**settings(given, out, **changes)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read a model's tensors."""
    return load_file(folder / "model.safetensors")
