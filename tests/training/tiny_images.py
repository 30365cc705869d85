"""Small images that can be learned, and small classifiers of transformers and of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

NAMES = ["blue", "green", "red"]


def pictures(count: int, seed: int) -> tuple[list[Any], list[int]]:
    """Noisy squares of 12 pixels whose colour is their class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count).tolist()
    images = []
    for label in labels:
        values = generator.normal(size=(12, 12, 3)) * 40 + 90
        values[:, :, 2 - label] += 50
        images.append(Pictures.fromarray(np.clip(values, 0, 255).astype(np.uint8)))
    return images, labels


def write_parquet(path: Path, count: int, seed: int) -> Path:
    """Write them as a parquet file."""
    images, labels = pictures(count, seed)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(str(path))
    return path


def write_folder(path: Path, count: int, seed: int) -> Path:
    """Write them as a folder of folders, named by class."""
    images, labels = pictures(count, seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (path / NAMES[label]).mkdir(parents=True, exist_ok=True)
        image.save(path / NAMES[label] / f"{number:03}.png")
    return path


def write_model(path: Path, kind: str = "resnet", classes: int = 5) -> Path:
    """Write a small classifier of transformers with its processor."""
    torch.manual_seed(0)
    if kind == "resnet":
        config = ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            num_labels=classes,
        )
        model: Any = ResNetForImageClassification(config)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
    else:
        model = ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=32,
                patch_size=16,
                num_labels=classes,
            )
        )
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


class OwnNetwork(nn.Module):
    """A module from pixels to logits that knows no transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.top = nn.Linear(8, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.top(torch.relu(self.norm(self.stem(pixels))).mean(dim=(2, 3)))


def own_network() -> nn.Module:
    """The same one every time."""
    torch.manual_seed(1)
    return OwnNetwork()
