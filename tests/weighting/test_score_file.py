"""Score files: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bequest.errors import InputError
from bequest.weighting.score_file import ScoreTable, read_scores, row_hash, write_scores


def table(*, tokens: bool = True, **changes: Any) -> ScoreTable:
    token_losses = [np.array(row, np.float32) for row in ([1.0, 3.0], [], [np.inf])]
    scores = ScoreTable(
        index=np.arange(3, dtype=np.int64),
        loss=np.array([2.0, np.nan, np.inf], np.float32),
        num_tokens=np.array([2, 0, 1], np.int32),
        row_hash=np.array([row_hash([1, row], [-100, row]) for row in range(3)]),
        weight=np.array([0.5, 0.0, 0.0], np.float32),
        token_losses=token_losses if tokens else None,
        metadata={"model": "m", "temperature": 2.0, "revision": None},
    )
    return dataclasses.replace(scores, **changes)


def test_a_hash_is_what_it_is_documented_to_be() -> None:
    ids, labels = [1, 49151, 7], [-100, 49151, 7]
    packed = struct.pack("<6i", *ids, *labels)
    assert row_hash(ids, labels) == hashlib.blake2b(packed, digest_size=16).hexdigest()
    assert row_hash(np.array(ids), tuple(labels)) == row_hash(ids, labels)
    assert row_hash(ids, ids) != row_hash(ids, labels) != row_hash(labels, ids)
    with pytest.raises(InputError, match="2 values for 3"):
        row_hash(ids, labels[:2])


@pytest.mark.parametrize("tokens", [True, False])
def test_what_is_written_is_read(tokens: bool, tmp_path: Path) -> None:
    file, scores = tmp_path / "new" / "s.parquet", table(tokens=tokens)
    write_scores(file, scores)
    write_scores(file, scores)  # a file of that name is replaced
    read = read_scores(file)
    for name in ("index", "loss", "num_tokens", "row_hash", "weight"):
        found, wanted = getattr(read, name), getattr(scores, name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert read.metadata == scores.metadata and len(read) == 3
    assert (read.token_losses is not None) == tokens
    for mine, theirs in zip(scores.token_losses or [], read.token_losses or [], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [path.name for path in file.parent.iterdir()] == ["s.parquet"]


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", table())
    rows = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert rows[0]["token_losses"] == [1.0, 3.0] and rows[1]["weight"] == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": np.array([1, np.nan, 0], np.float32)},
        {"weight": np.array([1, -1, 0], np.float32)},
        {"weight": np.array([1, 1], np.float32)},
        {"num_tokens": np.array([2, 1, 1], np.int32)},
    ],
)
def test_scores_that_do_not_fit_are_not_written(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_scores(tmp_path / "s.parquet", table(**changes))
    assert list(tmp_path.iterdir()) == []


def damage(file: Path, kind: str) -> None:
    read = pyarrow.parquet.read_table(file)
    metadata = read.schema.metadata
    if kind == "bytes":
        file.write_bytes(file.read_bytes()[:-20])
        return
    if kind == "not ours":
        read = read.replace_schema_metadata({})
    elif kind == "format":
        read = read.replace_schema_metadata({**metadata, b"bequest_scores": b"99"})
    elif kind == "metadata":
        read = read.replace_schema_metadata({**metadata, b"bequest": b"{"})
    elif kind == "column":
        read = read.drop_columns(["row_hash"])
    elif kind == "null":
        nothing = pyarrow.array([None, 1.0, 1.0], pyarrow.float32())
        read = read.set_column(read.column_names.index("weight"), "weight", nothing)
    pyarrow.parquet.write_table(read, file)


@pytest.mark.parametrize("kind", ["bytes", "not ours", "format", "metadata", "column", "null"])
def test_a_damaged_file_is_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "s.parquet"
    write_scores(file, table())
    damage(file, kind)
    with pytest.raises(InputError, match="bequest score") as raised:
        read_scores(file)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "nowhere.parquet")
