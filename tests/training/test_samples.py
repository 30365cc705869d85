"""Data sets that `save_to_disk` wrote: the part that was asked for, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, NamedSplit

from bequest.errors import InputError
from bequest.training.samples import read_samples


def texts(rows: Dataset) -> list[str]:
    return list(rows["text"])


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"text": [f"number {i}" for i in range(6)]})


def test_a_piece_of_a_saved_data_set(rows: Dataset, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "one"))
    assert texts(read_samples(tmp_path / "one")) == texts(rows)
    assert texts(read_samples(tmp_path / "one", split="train[1:3]")) == texts(rows)[1:3]
    with pytest.raises(
        InputError, match=r"split is 'test', but data .*one has train \(\d+ rows\); choose"
    ):
        read_samples(tmp_path / "one", split="test")


def test_it_answers_to_its_own_name(rows: Dataset, tmp_path: Path) -> None:
    own = Dataset(rows.data, split=NamedSplit("train_sft[:6]"))
    own.save_to_disk(str(tmp_path / "own"))
    assert len(read_samples(tmp_path / "own")) == 6
    assert texts(read_samples(tmp_path / "own", split="train_sft[-1:]")) == ["number 5"]


def test_a_piece_of_one_of_several(rows: Dataset, tmp_path: Path) -> None:
    parts = DatasetDict({"train": rows, "test": rows.select(range(4, 6))})
    parts.save_to_disk(str(tmp_path / "two"))
    assert texts(read_samples(tmp_path / "two", split="test[:1]")) == ["number 4"]
    assert len(read_samples(tmp_path / "two", split="train+test")) == 8
    with pytest.raises(InputError, match=r"has train \(6 rows\), test \(2 rows\); choose one"):
        read_samples(tmp_path / "two", split="validation")
