"""Labelled images as the pixels and batches that classifiers are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bequest.evaluation.image_data import IMAGE, LABEL


class PixelValues:
    """Turns images into `pixel_values` for models that bring no processor of their own.

    Args:
        size: pixels a side; images are scaled to it, bilinearly.
        mean: of the three colours, which are between 0 and 1.
        std: of the three colours.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = size
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, images: Sequence[Any], return_tensors: str = "pt") -> Mapping[str, Tensor]:
        """Scale and normalize images; returns `pixel_values`, shape (B, 3, size, size)."""
        from PIL.Image import Resampling

        scaled = [
            np.array(image.resize((self.size, self.size), Resampling.BILINEAR)) for image in images
        ]
        pixels = torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).float() / 255
        return {"pixel_values": (pixels - self._mean) / self._std}


class ImageBatches:
    """Collates rows into `pixel_values` and `labels`, augmented if it is told so.

    Args:
        processor: from images to `pixel_values`: one of transformers', or `PixelValues`.
        augment: one of `AUGMENTATIONS`. Drawn from torch's generator, which a resumed trainer
            restores.
    """

    def __init__(self, processor: Callable[..., Mapping[str, Any]], augment: str = "none") -> None:
        self._processor = processor
        self._kinds = set(augment.split("+")) - {"none"}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `pixel_values` (B, 3, H, W) float32 and `labels` (B,) int64."""
        images = [row[IMAGE].convert("RGB") for row in rows]
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        if "crop" in self._kinds:
            pixels = _shifted(pixels)
        if "flip" in self._kinds:
            flipped = torch.rand(len(pixels)) < 0.5
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
        labels = torch.tensor([row[LABEL] for row in rows], dtype=torch.int64)
        return {"pixel_values": pixels, "labels": labels}


def _shifted(pixels: Tensor) -> Tensor:
    """Move each image by up to an eighth of its side, repeating its border."""
    height, width = pixels.shape[-2:]
    up, left = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(pixels, (left, left, up, up), mode="replicate")
    rows = torch.randint(2 * up + 1, (len(pixels),)).tolist()
    columns = torch.randint(2 * left + 1, (len(pixels),)).tolist()
    return torch.stack(
        [
            image[:, row : row + height, column : column + width]
            for image, row, column in zip(padded, rows, columns, strict=True)
        ]
    )
