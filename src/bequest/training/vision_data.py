"""Labelled images from folders, parquet files or the hub, and their batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image, load_dataset, load_from_disk
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bequest.errors import InputError, explained

IMAGE, LABEL = "image", "label"
"""The columns of images as `read_images` returns them."""
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def read_images(source: str, split: str, *, image: str, label: str, field: str) -> Dataset:
    """Read labelled images.

    Args:
        source: a folder with a folder of images for each class, with or without folders of splits
            above them; a `.parquet` file or a folder of them; a folder from `save_to_disk`; or a
            hub id.
        split: part of it.
        image: the column of images.
        label: the column of labels.
        field: what the caller calls the source, for messages.

    Returns:
        A data set with `image` and `label`, the latter a ClassLabel.

    Raises:
        InputError: there is no such source, split or column, or it has no row.
    """
    path = Path(source).expanduser()
    with explained(f"{field} {source}"):
        if (path / "state.json").is_file():
            rows = load_from_disk(str(path))
        elif path.is_file() and path.suffix == ".parquet":
            rows = load_dataset("parquet", data_files={_part(split): str(path)}, split=split)
        elif path.is_dir() and any(path.glob("*.parquet")):
            rows = load_dataset(str(path), split=split)
        elif path.is_dir():
            rows = load_dataset("imagefolder", data_dir=str(path), split=split)
        elif path.exists():
            raise InputError(f"{field} {source} is no folder and no .parquet file")
        else:
            rows = load_dataset(source, split=split)
    for name, column in (("image", image), ("label", label)):
        if column not in rows.column_names:
            raise InputError(
                f"{field} {source} has no column {column!r}; name the column of its {name}s with "
                f"data.{name} (it has {', '.join(rows.column_names)})"
            )
    rows = rows.select_columns([image, label]).rename_columns(
        {old: new for old, new in ((image, IMAGE), (label, LABEL)) if old != new}
    )
    if not len(rows):
        raise InputError(f"{field} {source} has no row in {split!r}")
    with explained(f"{field} {source}"):
        if not isinstance(rows.features[IMAGE], Image):
            rows = rows.cast_column(IMAGE, Image())
        return _with_classes(rows)


def _with_classes(rows: Dataset) -> Dataset:
    """Make the labels a ClassLabel; numbers stay the numbers that they are."""
    kind = rows.features[LABEL]
    if isinstance(kind, ClassLabel):
        return rows
    if not str(getattr(kind, "dtype", "")).startswith(("int", "uint")):
        return rows.class_encode_column(LABEL)
    numbers = np.asarray(rows[LABEL][:], dtype=np.int64)
    if numbers.min() < 0:
        raise InputError(f"a label is {numbers.min()}; number the classes from 0")
    return rows.cast_column(LABEL, ClassLabel(num_classes=int(numbers.max()) + 1))


def class_names(rows: Dataset) -> list[str]:
    """Return the names of a data set's classes by number."""
    return list(rows.features[LABEL].names)


def labels_of(rows: Dataset) -> NDArray[np.int64]:
    """Return every label."""
    return np.asarray(rows[LABEL][:], dtype=np.int64)


def fingerprint(rows: Dataset) -> str:
    """Return a hash of all images and labels, as they are stored."""
    digest = hashlib.sha256(repr(class_names(rows)).encode())
    stored = rows.cast_column(IMAGE, Image(decode=False))
    for row in stored:
        cell = row[IMAGE]
        content = cell["bytes"]
        digest.update(Path(cell["path"]).read_bytes() if content is None else content)
        digest.update(str(row[LABEL]).encode())
    return digest.hexdigest()


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


def _part(split: str) -> str:
    """Return the split's own name without a slice: `test` of `test[:100]`."""
    return split.partition("[")[0] or "train"
