"""Labelled images from folders, parquet files or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Image, load_dataset
from numpy.typing import NDArray

from bequest.errors import InputError, explained
from bequest.evaluation.data_parts import ONLY, chosen_part, is_saved, only_part, saved_part

IMAGE, LABEL = "image", "label"
"""The columns of images as `read_images` returns them."""


def read_images(
    source: str,
    split: str | None,
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
        split: part of it, such as `train[:1000]`; None takes the only one, or `test` where there
            are several. What has one part calls it `train`, and a file's name does as well.
        image: the column of images.
        label: the column of labels.
        field: what the caller calls the source, for messages.
        columns: what the caller calls `image` and `label`, for messages.

    Returns:
        A data set with `image` and `label`, the latter a ClassLabel.

    Raises:
        InputError: there is no such source, split or column, it has no row, or one without a label.
    """
    with explained(f"{field} {source}"):
        rows = _part(source, split, f"{field} {source}")
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
        raise InputError(f"{field} {source} has no row{'' if split is None else f' in {split!r}'}")
    with explained(f"{field} {source}"):
        if not isinstance(rows.features[IMAGE], Image):
            rows = rows.cast_column(IMAGE, Image())
        return _with_classes(rows, f"{field} {source}")


def _part(source: str, split: str | None, field: str) -> Dataset:
    path = Path(source).expanduser()
    if is_saved(path):
        return saved_part(path, split, field)
    if path.is_file() and path.suffix == ".parquet":
        rows = load_dataset("parquet", data_files=str(path), split=ONLY)
        return only_part(rows, path.stem, split, field)
    if path.is_dir():
        tables = any(path.rglob("*.parquet"))
        found = (
            load_dataset(str(path)) if tables else load_dataset("imagefolder", data_dir=str(path))
        )
        return chosen_part({str(name): rows for name, rows in found.items()}, split, field)
    if path.exists():
        raise InputError(f"{field} is no folder and no .parquet file")
    return load_dataset(source, split=split or "test")


def _with_classes(rows: Dataset, field: str) -> Dataset:
    """Make the labels a ClassLabel; numbers stay the numbers that they are."""
    kind = rows.features[LABEL]
    named = isinstance(kind, ClassLabel)
    if not named and not str(getattr(kind, "dtype", "")).startswith(("int", "uint")):
        rows = rows.class_encode_column(LABEL)
        named = True
    labels = rows[LABEL][:]
    missing = sum(label is None or label < 0 for label in labels)
    if missing:
        # The test parts of some data sets are published without labels, as -1.
        raise InputError(
            f"{field} has {missing} images without a label (below 0 or none at all); leave them "
            "out, or name a split that is labelled"
        )
    classes = max(labels) + 1
    if not named:
        return rows.cast_column(LABEL, ClassLabel(num_classes=classes))
    if classes > rows.features[LABEL].num_classes:
        raise InputError(
            f"{field} has the label {classes - 1}, but {rows.features[LABEL].num_classes} classes; "
            "number them from 0"
        )
    return rows


def aligned(rows: Dataset, names: Sequence[str], field: str, other: str) -> Dataset:
    """Number the classes of some images as those of others, by their names to the letter.

    Args:
        rows: the images.
        names: of the others' classes.
        field: what the caller calls the images, for messages.
        other: what the caller calls the others.

    Raises:
        InputError: a class of the images is none of the others'.
    """
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [name for name in class_names(rows) if name not in numbers]
    if unknown:
        raise InputError(f"{field} has the class {unknown[0]!r}, which {other} has not")
    # Not datasets' align_labels_with_mapping, which takes `A` and `a` for the same.
    changed = np.array([numbers[name] for name in class_names(rows)])[labels_of(rows)]
    bare = rows.remove_columns(LABEL).add_column(LABEL, changed)
    return bare.cast_column(LABEL, ClassLabel(names=list(names)))


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
