from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from bequest.errors import InputError
from bequest.training.documents import Documents, read_documents, shared_out
from bequest.training.text_source import TextSource
from training.tiny_pretraining import texts, write_texts


def read(data: Any, **changes: Any) -> Documents:
    options: dict[str, Any] = {
        "text_field": "text",
        "sample_by": "document",
        "held_out": None,
        "held_out_fraction": 0.3,
        "held_out_bytes": 10**9,
    }
    options |= changes
    if options["held_out"] is not None:
        options["held_out"] = TextSource(data=options["held_out"], field="held_out")
    return read_documents(TextSource(data=data), **options)


def sides(found: Documents) -> tuple[set[str], set[str]]:
    return set(found.training_texts()), set(found.held_out)


@settings(max_examples=20)
@given(st.permutations(texts(12)), st.integers(0, 11))
def test_neither_order_nor_other_documents_move_one(shuffled: list[str], dropped: int) -> None:
    whole = sides(read(Dataset.from_dict({"text": texts(12)})))
    assert sides(read(Dataset.from_dict({"text": shuffled}))) == whole
    gone = texts(12)[dropped]
    left = sides(read(Dataset.from_dict({"text": [t for t in texts(12) if t != gone]})))
    assert left == (whole[0] - {gone}, whole[1] - {gone})


def test_the_split_is_the_hash_of_the_text() -> None:
    lines = texts(200)
    trained, held_out = sides(read(Dataset.from_dict({"text": lines})))
    share = {t: int(hashlib.sha256(t.encode()).hexdigest()[:16], 16) / 2**64 for t in lines}
    assert held_out == {text for text in lines if share[text] < 0.3}
    assert trained == set(lines) - held_out
    assert 30 < len(held_out) < 90


def test_copies_fall_on_one_side_and_are_measured_once() -> None:
    found = read(Dataset.from_dict({"text": texts(20) * 2 + ["", " ", None]}))
    assert len(found.held_out) == len(set(found.held_out))
    assert not set(found.held_out) & set(found.training_texts())
    assert len(found.training) == 2 * len(set(found.training_texts()))


def test_of_less_held_out_text_there_are_the_beginnings() -> None:
    long = [f"{text} " + "x" * 5000 for text in texts(60)]
    data = Dataset.from_dict({"text": long})
    more, less, least = read(data), read(data, held_out_bytes=30_000), read(data, held_out_bytes=9)
    assert set(more.held_out) < set(long)
    assert all(
        whole.startswith(cut) for whole, cut in zip(more.held_out, less.held_out, strict=False)
    )
    assert 29_000 < less.held_out_bytes.sum() <= 30_000 < more.held_out_bytes.sum()
    assert sides(less)[0] == sides(more)[0] == sides(least)[0]
    assert least.held_out == (more.held_out[0].encode()[:2048].decode(),)
    for one in (more, less, least):
        assert one.held_out_bytes.tolist() == [len(text.encode()) for text in one.held_out]
    assert len({one.fingerprint for one in (more, less, least)}) == 3


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=40), st.integers(1, 200_000))
def test_bytes_are_shared_out_evenly(sizes: list[int], budget: int) -> None:
    shares = shared_out(np.array(sizes), budget)
    assert sum(shares) <= max(budget, min(sizes[0], 2048))
    cut = [share for share, size in zip(shares, sizes, strict=False) if share < size]
    # Whoever is cut gets as much as anyone, and at least 2,048.
    assert len(set(cut)) <= 1 and all(share == max(shares) >= 2048 for share in cut)
    if len(shares) < len(sizes):
        # Not even the least share of one more document fits.
        everyone = [min(size, 2048) for size in sizes[: len(shares) + 1]]
        assert sum(everyone) > budget
    elif sum(sizes) <= budget:
        assert shares == sizes


def test_a_held_out_file_is_kept_from_training(tmp_path: Path) -> None:
    own = write_texts(tmp_path / "held.jsonl", [*texts(3), "only there"])
    trained, held_out = sides(read(Dataset.from_dict({"text": texts(10)}), held_out=str(own)))
    assert held_out == {*texts(3), "only there"}
    assert trained == set(texts(10)) - held_out


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.md").write_text("three")
    write_texts(tmp_path / "c.jsonl", texts(5))
    Dataset.from_dict({"text": texts(5, seed=1), "n": range(5)}).to_parquet(tmp_path / "d.parquet")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    found = sides(read(tmp_path))
    assert found[0] | found[1] == {"one\n\ntwo\n", "three", *texts(5), *texts(5, seed=1)}
    paragraphs = sides(read(tmp_path, sample_by="paragraph"))
    assert {"one", "three"} < {text.strip() for text in paragraphs[0] | paragraphs[1]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out_fraction": 1e-9}, "none would be held out"),
        ({"held_out_fraction": 1 - 1e-9}, "none would be trained on"),
        ({"text_field": "body"}, "no column 'body'"),
        ({"held_out": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(Dataset.from_dict({"text": texts(10)}), **changes)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not of text"):
        read(Dataset.from_dict({"text": [1, 2]}))
    with pytest.raises(InputError, match="streaming=False"):
        read(Dataset.from_dict({"text": texts(4)}).to_iterable_dataset())
    with pytest.raises(InputError, match="holds no"):
        read(tmp_path)
