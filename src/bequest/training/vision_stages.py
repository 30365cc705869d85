"""The trainings that fine-tuning on images is made of: of a head alone, and of the whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Rows
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bequest.errors import InputError
from bequest.training.training_arguments import make_arguments, read_training
from bequest.training.vision_data import ROW, ImageBatches
from bequest.training.vision_model import ImageClassifier
from bequest.training.weighted_trainer import WeightedTrainer

Collate = Callable[[list[Any]], dict[str, Tensor]]

_DEFAULTS: dict[str, Any] = {
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "weight_decay": 5e-4,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 128,
    "max_grad_norm": 0.0,
    "report_to": "none",
}
BODY_DEFAULTS = {
    **_DEFAULTS,
    "learning_rate": 1e-2,
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 10,
}
"""Settings of TrainingArguments for the whole model (the paper's, and a rate that suits most)."""
HEAD_DEFAULTS = {
    **_DEFAULTS,
    "learning_rate": 1e-2,
    "num_train_epochs": 10,
    "save_strategy": "no",
    "logging_strategy": "no",
}
"""The same for a head, whose trainings read features and take seconds."""
_OURS = {
    "output_dir": "set out or run_dir",
    "seed": "set the run's seed",
    "data_seed": "set the run's seed",
    "resume_from_checkpoint": "run the same command again, and it goes on by itself",
    "save_only_model": "a run without its optimizer cannot be resumed; leave it out",
    "remove_unused_columns": "images are collated from all of them; leave it out",
    "dataloader_persistent_workers": "they would repeat an epoch's augmentation; leave it out",
    "eval_strategy": "the test images are read once, at the end; leave it out",
    "label_smoothing_factor": "it would bypass the weights; leave it out",
    "load_best_model_at_end": "the last weights are taken; leave it out",
}


def stage_arguments(
    training: Mapping[str, Any], defaults: Mapping[str, Any], *, seed: int, folder: Path
) -> TrainingArguments:
    """Make the arguments of one training.

    Args:
        training: settings of TrainingArguments by name, as the user gave them.
        defaults: `BODY_DEFAULTS` or `HEAD_DEFAULTS`.
        seed: of order, augmentation and dropout.
        folder: where checkpoints go.

    Raises:
        InputError: TrainingArguments has no such field or refuses a value.
    """
    settings = read_training(TrainingArguments, training, defaults=defaults, reserved=_OURS)
    fixed = {"seed": seed, "remove_unused_columns": False, "disable_tqdm": True}
    arguments = make_arguments(TrainingArguments, {**settings, **fixed}, folder)
    if arguments.world_size > 1:
        raise InputError(
            f"{arguments.world_size} processes were started, but images are fine-tuned by one; "
            "for more, use WeightedTrainer in a script of your own"
        )
    return arguments


@torch.no_grad()
def read_through(
    model: ImageClassifier,
    rows: Rows,
    collate: Collate,
    *,
    batch_size: int,
    features: bool,
    device: torch.device,
) -> Tensor:
    """Run a model in evaluation over all images; return features (N, D) or logits (N, C).

    Args:
        model: it is moved to the device and left in evaluation.
        rows: the images.
        collate: without augmentation.
        batch_size: images at once.
        features: what the head reads instead of what it gives.
        device: to run on.
    """
    model.eval().to(device)
    found = []
    for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collate):
        pixels = batch["pixel_values"].to(device)
        found.append((model.features(pixels) if features else model(pixels)["logits"]).cpu())
    return torch.cat(found)


class _Features(Dataset[dict[str, Tensor]]):
    def __init__(self, features: Tensor, labels: NDArray[np.int64]) -> None:
        self._features, self._labels = features, torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"features": self._features[index], "labels": self._labels[index]}


class _Head(nn.Module):
    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(features)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def train_head(
    head: nn.Linear, features: Tensor, labels: NDArray[np.int64], args: TrainingArguments
) -> NDArray[np.float32]:
    """Train a head in place on what a frozen body gives, with the plain loss.

    Args:
        head: the linear layer.
        features: of the training images, not augmented, shape (N, D).
        labels: N class numbers.
        args: of the training.

    Returns:
        Its N losses on the same images afterwards, in nats.
    """
    head.requires_grad_(True)
    trainer = Trainer(_Head(head), args, train_dataset=_Features(features, labels))
    _silence(trainer)
    trainer.train()
    head.cpu()
    with torch.no_grad():
        losses = functional.cross_entropy(
            head(features), torch.from_numpy(labels), reduction="none"
        )
    result: NDArray[np.float32] = losses.float().numpy()
    return result


class _BodyTrainer(WeightedTrainer):
    """WeightedTrainer with a penalty for the distance to the start, by all trained parameters."""

    def __init__(self, *arguments: Any, l2: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._l2 = l2
        self._start = (
            {name: p.detach().clone().to(self.args.device) for name, p in self._trained()}
            if l2
            else {}
        )

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        """Add `l2 * ||theta - start||^2 / (number of parameters)` to the loss of a step."""
        loss = super().compute_loss(model, inputs, *rest, **more)
        if not self._l2 or not self.model.training:
            return loss
        trained = self._trained()
        distance = torch.stack([((p - self._start[name]) ** 2).sum() for name, p in trained]).sum()
        penalty = self._l2 * distance / sum(p.numel() for _, p in trained)
        # Each micro-batch adds its part.
        return loss + penalty / self.current_gradient_accumulation_steps


def train_body(
    start: ImageClassifier,
    rows: Rows,
    collate: ImageBatches,
    args: TrainingArguments,
    *,
    temperature: float | None,
    l2: float,
    checkpoint: Path | None,
) -> tuple[ImageClassifier, list[dict[str, Any]]]:
    """Train the whole model from the probed one, weighted by it or not.

    Args:
        start: the pre-trained body with the probe's head; it is left as it is.
        rows: the training images.
        collate: with augmentation.
        args: of the training.
        temperature: weights `exp(-loss of start / temperature)` on the same augmented batch; None
            for weights of one.
        l2: of the penalty, 0 for none.
        checkpoint: to go on from.

    Returns:
        The trained model, in evaluation, and the trainer's log.
    """
    model = copy.deepcopy(start).requires_grad_(True)
    how: dict[str, Any] = {"weights": np.ones(len(rows), np.float32)}
    if temperature is not None:
        how = {"reference_model": copy.deepcopy(start), "temperature": temperature}
    passing = collate if temperature is not None else _WithWeight(collate)
    numbered = rows.add_column(ROW, np.arange(len(rows)))
    trainer = _BodyTrainer(model, args, passing, numbered, l2=l2, **how)
    trainer.add_callback(_Epochs(collate))
    # Not what a module's sub-modules say of their own forward: ours takes these two.
    trainer.label_names = ["labels"]
    _silence(trainer)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return model.cpu().eval(), list(trainer.state.log_history)


class _Epochs(TrainerCallback):
    """Tells what collates which epoch begins, or goes on after a resume."""

    def __init__(self, collate: ImageBatches) -> None:
        self._collate = collate

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Called before the loader copies what collates into its workers.
        self._collate.epoch = int(state.epoch or 0)


class _WithWeight:
    """Passes the column of weights on beside what another collator makes."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        return {**self._collate(rows), "weight": torch.tensor([row["weight"] for row in rows])}


def _silence(trainer: Trainer) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
