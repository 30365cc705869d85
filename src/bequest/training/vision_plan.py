"""Fine-tuning on images before it starts: what can be refused without a training step is refused."""

from __future__ import annotations

import json
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
from bequest.evaluation.image_accuracy import check_groups, groups_in_order
from bequest.evaluation.image_data import LABEL, class_names, fingerprint, read_images
from bequest.training.run_folder import RunStart, check, check_place
from bequest.training.vision_config import ImageConfig, check_images
from bequest.training.vision_data import ImageBatches, PixelValues
from bequest.training.vision_model import ImageClassifier, last_linear, load_classifier, state_hash
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
    start: ImageClassifier
    """The pre-trained model with its original head."""
    processor: Any
    """From images to its pixels."""
    train: Dataset
    """The training images."""
    test: Dataset | None
    """The test images."""
    retention: Dataset | None
    """What is measured for forgetting."""
    groups: list[list[int]] | None
    """The original head's classes for each class of `retention`; None if they are the same."""
    body_args: TrainingArguments
    """Of the training of the whole model."""
    head_args: TrainingArguments
    """Of the trainings of the head."""
    identity: dict[str, Any]
    """What the result depends on."""
    resume: RunStart
    """How the run would begin as its folder was when it was planned."""

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
    sources = (config.model, config.data.train, config.data.eval, config.retention.data)
    read = tuple(Path(source).expanduser() for source in sources if source is not None)
    folders = tuple(path for path in read if path.is_dir())
    target = check_target(config.out, overwrite=config.overwrite, inputs=folders)
    reads = {
        "model": None if network is not None else config.model,
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "retention.data": config.retention.data,
        "retention.groups": config.retention.groups,
    }
    check_place(config.run_folder, out=target, reads=reads)
    data = config.data
    if network is not None:
        if config.size is None:
            raise InputError("size is missing; give the pixels a side that the network reads")
        start = ImageClassifier(network, config.head or last_linear(network)).eval()
        processor: Any = PixelValues(config.size, config.mean, config.std)
    else:
        start, processor = load_classifier(config)
    head_args = stage_arguments(
        config.head_training, HEAD_DEFAULTS, seed=config.seed, folder=config.run_folder
    )
    body_args = stage_arguments(
        config.training, BODY_DEFAULTS, seed=config.seed, folder=config.run_folder
    )
    train = read_images(
        data.train, data.split, image=data.image, label=data.label, field="data.train"
    )
    test = None
    if data.eval is not None or data.eval_split is not None:
        split = data.eval_split or data.split
        test = read_images(
            data.eval or data.train, split, image=data.image, label=data.label, field="data.eval"
        )
        test = _aligned(test, train)
    retention, groups = _retention(config, start)
    identity = _identity(config, start, processor, train)
    return ImagePlan(
        config=config,
        target=target,
        start=start,
        processor=processor,
        train=train,
        test=test,
        retention=retention,
        groups=groups,
        body_args=body_args,
        head_args=head_args,
        identity=identity,
        resume=check(config.run_folder, identity, overwrite=config.overwrite),
    )


def _aligned(rows: Dataset, train: Dataset) -> Dataset:
    """Number the classes of the test images as those of the training images, by name."""
    numbers = {name: number for number, name in enumerate(class_names(train))}
    unknown = [name for name in class_names(rows) if name not in numbers]
    if unknown:
        raise InputError(f"data.eval has the class {unknown[0]!r}, which data.train has not")
    return rows.align_labels_with_mapping(numbers, LABEL)


def _retention(
    config: ImageConfig, start: ImageClassifier
) -> tuple[Dataset | None, list[list[int]] | None]:
    asked = config.retention
    if asked.data is None:
        return None, None
    rows = read_images(
        asked.data,
        asked.split,
        image=config.data.image,
        label=config.data.label,
        field="retention.data",
    )
    classes = start.head.out_features
    if asked.groups is None:
        if len(class_names(rows)) != classes:
            raise InputError(
                f"retention.data has {len(class_names(rows))} classes and the original head "
                f"{classes}; give retention.groups, which says what belongs to what"
            )
        return rows, None
    try:
        groups = json.loads(Path(asked.groups).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"retention.groups {asked.groups} cannot be read: {error}") from error
    ordered = groups_in_order(groups, class_names(rows))
    check_groups(ordered, classes)
    return rows, ordered


def _identity(
    config: ImageConfig, start: ImageClassifier, processor: Any, train: Dataset
) -> dict[str, Any]:
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
