"""Small classifiers and data for WeightedTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

SIZE, CLASSES, ROWS = 6, 3, 16


class Classifier(nn.Module):
    """A module that is no model of transformers: two layers, and a loss if there are labels."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(SIZE, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(torch.tanh(self.body(features)))
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def rows(count: int = ROWS) -> dict[str, list[Any]]:
    """Random features and labels."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(count, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return {"features": features.tolist(), "labels": labels.tolist()}


def trained(
    trainer_class: type[Trainer],
    folder: Path,
    *,
    args: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Train by plain gradient descent, one step over all rows unless `args` says otherwise."""
    settings: dict[str, Any] = {
        "optim": "sgd",
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": ROWS,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    options.setdefault("model", Classifier())
    options.setdefault("train_dataset", Dataset.from_dict(rows()))
    arguments = TrainingArguments(output_dir=str(folder), **{**settings, **(args or {})})
    trainer = trainer_class(args=arguments, **options)
    trainer.train()
    return trainer


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    """The trained weights."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
