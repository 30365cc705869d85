"""Text as a configuration names it: parts of files and folders, configurations of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from bequest.errors import InputError
from bequest.training.documents import Documents, asked_documents
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.text_source import TextSource, read_source
from training.tiny_pretraining import texts, write_texts

README = """---
configs:
- config_name: small
  data_files: [{split: train, path: small.jsonl}, {split: validation, path: sub/held.jsonl}]
- config_name: big
  data_files: [{split: train, path: big.jsonl}, {split: validation, path: sub/held.jsonl}]
---
# Two sizes
"""


def read(data: Any, **changes: Any) -> list[str]:
    source = TextSource(data=data, **changes)
    return list(read_source(source, text_field="text", sample_by="paragraph")["text"])


def asked(data: Path, **changes: Any) -> Documents:
    return asked_documents(PretrainConfig(out="o", data=str(data), **changes))


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two configurations, as the hub has them."""
    folder = tmp_path_factory.mktemp("configured")
    (folder / "sub").mkdir()
    (folder / "README.md").write_text(README)
    write_texts(folder / "small.jsonl", texts(4))
    write_texts(folder / "big.jsonl", texts(20, seed=1))
    write_texts(folder / "sub" / "held.jsonl", texts(5, seed=2))
    return folder


def test_a_part_of_files_is_rows_of_their_documents(tmp_path: Path) -> None:
    lines = texts(20)
    (tmp_path / "a.txt").write_text("\n\n".join(lines[:10]))
    (tmp_path / "b.txt").write_text("\n\n".join(lines[10:]))
    file, data = tmp_path / "a.txt", Dataset.from_dict({"text": lines})
    assert [text.strip() for text in read(file, split="train[:3]")] == lines[:3]
    assert [text.strip() for text in read(tmp_path, split="train[90%:]")] == lines[18:]
    assert read(data, split="train[:2]+train[-1:]") == [*lines[:2], lines[-1]]
    assert len(read(tmp_path)) == len(read(data)) == 20
    # The recipe of docs/inheritance.md: the held-out documents are those of this part only.
    found = asked(tmp_path, split="train[:10]", sample_by="paragraph", held_out_fraction=0.3)
    seen = {text.strip() for text in (*found.training_texts(), *found.held_out)}
    assert seen == set(lines[:10])
    for wrong in ("test", "train[:x]"):
        with pytest.raises(
            InputError, match=r"split is '.*', but data has train \(10 documents\);"
        ):
            read(file, split=wrong)


def test_a_configuration_is_chosen_by_name(configured: Path) -> None:
    assert read(configured, name="small") == texts(4)
    assert read(configured, name="big", split="train[:3]") == texts(20, seed=1)[:3]
    with pytest.raises(
        InputError, match="several configurations; set data_name to one of small, big"
    ):
        read(configured)
    with pytest.raises(InputError, match="'tiny' not found"):
        read(configured, name="tiny")
    with pytest.raises(InputError, match="data_name is 'x', but a data set in memory has no"):
        read(Dataset.from_dict({"text": ["a"]}), name="x")
    with pytest.raises(
        InputError, match=r"data_name is 'x', but .*small\.jsonl has no configurations"
    ):
        read(configured / "small.jsonl", name="x")


def test_what_is_measured_may_be_a_part_of_the_data(configured: Path) -> None:
    found = asked(configured, data_name="small", held_out_split="validation")
    assert set(found.held_out) == set(texts(5, seed=2))
    assert list(found.training_texts()) == texts(4)
    found = asked(
        configured, data_name="small", held_out=str(configured), held_out_split="validation[:2]"
    )
    assert set(found.held_out) == set(texts(5, seed=2)[:2])
    found = asked(configured, data_name="small", held_out_name="big")
    assert set(found.held_out) == set(texts(20, seed=1))
    with pytest.raises(InputError, match="held_out_split is 'dev'"):
        asked(configured / "small.jsonl", held_out=str(configured / "sub"), held_out_split="dev")
