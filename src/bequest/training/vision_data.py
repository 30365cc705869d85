"""Labelled images as the pixels and batches that classifiers are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bequest.evaluation.image_data import IMAGE, LABEL

ROW = "row"
"""The column of the rows' numbers, from which their augmentation is drawn."""


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

    How an image is augmented follows from the seed, the epoch and its row alone. Drawn from a
    generator that a checkpoint restores it would not be the same after a resume: loaders collate a
    batch ahead of the one that is trained on.

    Args:
        processor: from images to `pixel_values`: one of transformers', or `PixelValues`.
        augment: one of `AUGMENTATIONS`; other than none, rows have their number in `ROW`.
        seed: of the augmentation.
    """

    def __init__(
        self, processor: Callable[..., Mapping[str, Any]], augment: str = "none", seed: int = 0
    ) -> None:
        self._processor = processor
        self._kinds = set(augment.split("+")) - {"none"}
        self._seed = seed % 2**32
        self.epoch = 0
        """Of the rows that come next."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `pixel_values` (B, 3, H, W) float32 and `labels` (B,) int64."""
        images = [row[IMAGE].convert("RGB") for row in rows]
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        if self._kinds:
            pixels = torch.stack(
                [self._augmented(one, row[ROW]) for one, row in zip(pixels, rows, strict=True)]
            )
        labels = torch.tensor([row[LABEL] for row in rows], dtype=torch.int64)
        return {"pixel_values": pixels, "labels": labels}

    def _augmented(self, pixels: Tensor, row: int) -> Tensor:
        generator = np.random.default_rng([self._seed, self.epoch, row])
        if "crop" in self._kinds:
            pixels = _shifted(pixels, generator)
        if "flip" in self._kinds and generator.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


def _shifted(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Move an image (3, H, W) by up to an eighth of its side, repeating its border."""
    height, width = pixels.shape[-2:]
    up, left = max(1, height // 8), max(1, width // 8)
    # One image, but padding by replication wants a batch.
    padded: Tensor = functional.pad(pixels[None], (left, left, up, up), mode="replicate")[0]
    row, column = generator.integers(2 * up + 1), generator.integers(2 * left + 1)
    return padded[:, row : row + height, column : column + width]
