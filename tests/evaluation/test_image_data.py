"""Labelled images from every kind of source: the part that was asked for, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from bequest.errors import InputError
from bequest.evaluation.image_data import LABEL, aligned, class_names, labels_of, read_images
from tests.training.tiny_images import NAMES, pictures, write_folder, write_parquet

COUNTS = {"train": 7, "test": 5}


def made(count: int, seed: int = 0) -> Dataset:
    images, labels = pictures(count, seed)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def read(source: Path, split: str | None) -> Dataset:
    return read_images(str(source), split, image="image", label="label", field="data")


def source_of_parts(folder: Path, kind: str) -> Path:
    """The same two parts, written in one of the ways that data sets come in."""
    if kind == "saved":
        parts = {name: made(count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
        DatasetDict(parts).save_to_disk(str(folder))
        return folder
    folder.mkdir()
    for seed, (name, count) in enumerate(COUNTS.items()):
        if kind == "parquets":
            write_parquet(folder / f"{name}.parquet", count, seed)
        elif kind == "hub":
            (folder / "data").mkdir(exist_ok=True)
            write_parquet(folder / "data" / f"{name}-00000-of-00001.parquet", count, seed)
        else:
            write_folder(folder / name, count, seed)
    return folder


@pytest.mark.parametrize("kind", ["saved", "parquets", "hub", "folders"])
def test_a_source_of_parts_gives_the_one_that_is_asked_for(tmp_path: Path, kind: str) -> None:
    source = source_of_parts(tmp_path / kind, kind)
    for seed, (name, count) in enumerate(COUNTS.items()):
        found = read(source, name)
        assert class_names(found) == NAMES
        assert sorted(labels_of(found)) == sorted(pictures(count, seed)[1])
    test = read(source, "test")
    assert labels_of(read(source, None)).tolist() == labels_of(test).tolist()
    assert labels_of(read(source, "test[1:3]")).tolist() == labels_of(test)[1:3].tolist()
    assert len(read(source, "train[:4]+test[-2:]")) == 6
    with pytest.raises(
        InputError, match=r"split is 'validation', but data .* has (train|test) .*, "
    ):
        read(source, "validation")


@pytest.mark.parametrize("kind", ["saved", "parquet", "folder"])
def test_a_source_of_one_part_never_passes_for_another(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "all"
    if kind == "saved":
        made(7).save_to_disk(str(source))
    elif kind == "parquet":
        source = write_parquet(tmp_path / "all.parquet", 7, 0)
    else:
        write_folder(source, 7, 0)
    whole = labels_of(read(source, "train"))
    assert len(whole) == 7 and labels_of(read(source, None)).tolist() == whole.tolist()
    assert labels_of(read(source, "train[:3]")).tolist() == whole[:3].tolist()
    for wrong in ("test", "validation[:3]", "train["):
        with pytest.raises(
            InputError, match=r"data .*all.* has train \(\d+ rows\); choose one, or a piece"
        ):
            read(source, wrong)
    with pytest.raises(InputError, match=r"has no row in 'train\[9:\]'"):
        read(source, "train[9:]")


def test_a_files_own_name_is_a_name_of_its_part(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "cifar_test.parquet", 7, 0)
    for split in ("test", "cifar_test", "train", None):
        assert len(read(source, split)) == 7
    assert len(read(source, "test[:2]")) == 2
    with pytest.raises(InputError, match="split is 'validation'"):
        read(source, "validation")


@pytest.mark.parametrize("kind", ["number", "class"])
@pytest.mark.parametrize("wrong", [-1, None])
def test_images_without_a_label_are_refused(tmp_path: Path, kind: str, wrong: Any) -> None:
    images, labels = pictures(4, 0)
    label = ClassLabel(names=NAMES) if kind == "class" else Value("int64")
    rows = Dataset.from_dict(
        {"image": images, "label": [*labels[:3], wrong]},
        features=Features({"image": Image(), "label": label}),
    )
    rows.to_parquet(str(tmp_path / "test.parquet"))
    with pytest.raises(InputError, match=r"data .*test\.parquet has 1 images without a label"):
        read(tmp_path / "test.parquet", "test")


def test_classes_are_aligned_to_the_letter() -> None:
    names = ["a", "A", "b"]
    rows = Dataset.from_dict(
        {"image": pictures(4, 0)[0], LABEL: [0, 1, 2, 0]},
        features=Features({"image": Image(), LABEL: ClassLabel(names=["b", "A", "a"])}),
    )
    found = aligned(rows, names, "data.eval", "data.train")
    assert labels_of(found).tolist() == [2, 1, 0, 2] and class_names(found) == names
    with pytest.raises(
        InputError, match=r"data\.eval has the class 'A', which data\.train has not"
    ):
        aligned(rows, ["a", "b"], "data.eval", "data.train")
    np.testing.assert_array_equal(labels_of(rows), [0, 1, 2, 0])
