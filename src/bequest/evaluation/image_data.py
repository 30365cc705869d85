"""Labelled images from folders, parquet files or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Image, load_dataset, load_from_disk
from numpy.typing import NDArray

from bequest.errors import InputError, explained

IMAGE, LABEL = "image", "label"
"""The columns of images as `read_images` returns them."""


def read_images(
    source: str,
    split: str,
    *,
    image: str,
    label: str,
    field: str,
    columns: tuple[str, str] = ("data.image", "data.label"),
) -> Dataset:
    """Read labelled images.

    Args:
        source: a folder with a folder of images for each class, with or without folders of splits
            above them; a `.parquet` file or a folder of them; a folder from `save_to_disk`; or a
            hub id.
        split: part of it.
        image: the column of images.
        label: the column of labels.
        field: what the caller calls the source, for messages.
        columns: what the caller calls `image` and `label`, for messages.

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
    for name, column, option in (("image", image, columns[0]), ("label", label, columns[1])):
        if column not in rows.column_names:
            raise InputError(
                f"{field} {source} has no column {column!r}; name the column of its {name}s with "
                f"{option} (it has {', '.join(rows.column_names)})"
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


def contents(rows: Dataset) -> Iterator[tuple[bytes, int]]:
    """Yield every image as it is stored, undecoded, and its label."""
    for row in rows.cast_column(IMAGE, Image(decode=False)):
        cell = row[IMAGE]
        stored = cell["bytes"]
        yield Path(cell["path"]).read_bytes() if stored is None else stored, row[LABEL]


def fingerprint(rows: Dataset) -> str:
    """Return a hash of all images and labels, as they are stored."""
    digest = hashlib.sha256(repr(class_names(rows)).encode())
    for stored, label in contents(rows):
        digest.update(stored)
        digest.update(str(label).encode())
    return digest.hexdigest()


def _part(split: str) -> str:
    """Return the split's own name without a slice: `test` of `test[:100]`."""
    return split.partition("[")[0] or "train"
