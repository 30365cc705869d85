"""Fine-tuning on images before it starts: what can be refused without a training step is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainingArguments

from bequest.checkpoints.publish import check_target
from bequest.errors import InputError
from bequest.evaluation.image_classes import ClassMap, match_classes, read_groups
from bequest.evaluation.image_data import aligned, class_names, fingerprint, read_images
from bequest.training.run_folder import RunStart, check
from bequest.training.run_place import check_place
from bequest.training.vision_config import ImageConfig, check_images
from bequest.training.vision_data import ImageBatches
from bequest.training.vision_model import ImageClassifier, state_hash
from bequest.training.vision_source import ImageSource, load_source
from bequest.training.vision_stages import (
    BODY_DEFAULTS,
    HEAD_DEFAULTS,
    read_through,
    stage_arguments,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePlan:
    """A run that is ready to start: all that could be refused without a training step has been."""

    config: ImageConfig
    """What was asked."""
    target: Path
    """Where the finished model goes."""
    source: ImageSource
    """The pre-trained model and where it came from."""
    train: Dataset
    """The training images."""
    test: Dataset | None
    """The test images."""
    retention: Dataset | None
    """What is measured for forgetting."""
    classes: ClassMap | None
    """The original head's classes for each class of `retention`."""
    body_args: TrainingArguments
    """Of the training of the whole model."""
    head_args: TrainingArguments
    """Of the trainings of the head."""
    identity: dict[str, Any]
    """What the result depends on."""
    resume: RunStart
    """How the run would begin as its folder was when it was planned."""

    @property
    def start(self) -> ImageClassifier:
        """The pre-trained model with its original head."""
        return self.source.classifier

    @property
    def processor(self) -> Any:
        """From images to its pixels."""
        return self.source.processor

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        device: torch.device = self.body_args.device
        return device

    def read(self, model: ImageClassifier, rows: Dataset, *, features: bool = False) -> Tensor:
        """Run a model over images that are not augmented; see `read_through`."""
        return read_through(
            model,
            rows,
            ImageBatches(self.processor),
            batch_size=self.body_args.per_device_eval_batch_size,
            features=features,
            device=self.device,
        )


def plan_images(config: ImageConfig, *, network: nn.Module | None = None) -> ImagePlan:
    """Load the model and read the data, and refuse what can be refused.

    Args:
        config: what is asked.
        network: a module instead of the one that `config.model` names, from pixels to logits.

    Raises:
        InputError: the configuration, the model or the data is at fault.
    """
    check_images(config)
    target = check_target(config.out, overwrite=config.overwrite)
    reads = {
        "model": None if network is not None else config.model,
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "retention.data": config.retention.data,
        "retention.groups": config.retention.groups,
    }
    check_place(config.run_folder, out=target, reads=reads)
    source = load_source(config, network)
    head_args = stage_arguments(
        config.head_training, HEAD_DEFAULTS, seed=config.seed, folder=config.run_folder
    )
    body_args = stage_arguments(
        config.training, BODY_DEFAULTS, seed=config.seed, folder=config.run_folder
    )
    train, test = _images(config)
    retention, classes = _retention(config, source)
    identity = _identity(config, source, train)
    return ImagePlan(
        config=config,
        target=target,
        source=source,
        train=train,
        test=test,
        retention=retention,
        classes=classes,
        body_args=body_args,
        head_args=head_args,
        identity=identity,
        resume=check(config.run_folder, identity, overwrite=config.overwrite),
    )


def _images(config: ImageConfig) -> tuple[Dataset, Dataset | None]:
    """Read the images to train on and to test on."""
    data = config.data
    train = _read(config, data.train, data.split, "data.train")
    if data.eval is None and data.eval_split is None:
        return train, None
    read = _read(config, data.eval or data.train, data.eval_split, "data.eval")
    test = aligned(read, class_names(train), "data.eval", "data.train")
    if len(test) == len(train) and fingerprint(test) == fingerprint(train):
        raise InputError(
            "data.eval names the very images that are trained on, which test nothing; name others, "
            "or another eval_split"
        )
    return train, test


def _read(config: ImageConfig, source: str, split: str | None, field: str) -> Dataset:
    columns = config.data
    return read_images(source, split, image=columns.image, label=columns.label, field=field)


def _retention(config: ImageConfig, source: ImageSource) -> tuple[Dataset | None, ClassMap | None]:
    asked = config.retention
    if asked.data is None:
        return None, None
    rows = _read(config, asked.data, asked.split, "retention.data")
    groups = None if asked.groups is None else read_groups(asked.groups, "retention.groups")
    classes = match_classes(
        source.classes,
        class_names(rows),
        groups,
        field="retention.data",
        option="retention.groups",
        model="the original head",
    )
    return rows, classes


def _identity(config: ImageConfig, source: ImageSource, train: Dataset) -> dict[str, Any]:
    start, processor = source.classifier, source.processor
    pixels = processor.to_dict() if hasattr(processor, "to_dict") else dict(_plain(processor))
    return {
        "model": {"weights": state_hash(start), "head": start.head_name, "pixels": repr(pixels)},
        "data": fingerprint(train),
        "head_training": _settings(config.head_training),
        "seed": config.seed,
        "training": _settings(config.training),
        "augment": config.augment,
        "weights": [config.method.scheme or "flow", str(config.method.temperature or "median")],
        "l2": config.method.l2,
        "wise_ft": config.method.wise_ft,
        "linear_probe": config.method.linear_probe,
    }


def _settings(training: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(training.items())}


def _plain(processor: Any) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, Tensor) else value
        for name, value in vars(processor).items()
    }
