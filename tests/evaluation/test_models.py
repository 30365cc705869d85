"""Models are judged whole before anything is evaluated, and never taken for one another."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bequest
from bequest.checkpoints import model_identity
from bequest.checkpoints.model_identity import ContentHashes
from bequest.errors import InputError
from bequest.evaluation.held_out import HeldOutText
from bequest.evaluation.models import LoadedModel, find_candidates
from training.tiny_images import write_model, write_parquet
from training.tiny_sft import save_model

MATRIX = "model.layers.1.mlp.down_proj.weight"
Edit = Callable[[dict[str, torch.Tensor]], object]


def edited(folder: Path, edit: Edit) -> Path:
    """Change a model's tensors in place, and return its folder."""
    file = folder / "model.safetensors"
    state = load_file(file)
    edit(state)
    save_file(state, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.pop(MATRIX), f"missing: {MATRIX}"),
        (lambda state: state.update({MATRIX: torch.zeros(3, 3)}), f"another shape: .*{MATRIX}"),
        (lambda state: state.update(stray=torch.zeros(3)), "unexpected: stray"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_before_anything(
    tmp_path: Path, edit: Edit, words: str
) -> None:
    before = save_model(tmp_path / "before")
    after = edited(save_model(tmp_path / "after", seed=1), edit)
    texts = tmp_path / "t.txt"
    texts.write_text("some text")
    with pytest.raises(InputError, match=f"model .*after would not load whole .*{words}"):
        bequest.evaluate(before, after, texts=texts, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_model_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = edited(
        write_model(tmp_path / "vit", "vit", 3), lambda state: state.pop("classifier.weight")
    )
    with pytest.raises(InputError, match=r"missing: classifier\.weight"):
        find_candidates([str(folder)], images=True)


def test_a_quantized_model_is_judged_before_lm_eval_runs_it(tmp_path: Path) -> None:
    folder = edited(save_model(tmp_path / "model"), lambda state: state.pop(MATRIX))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    (candidate,) = find_candidates([str(folder)])
    with pytest.raises(InputError, match=MATRIX):
        _ = LoadedModel(candidate, batch_size="4").harness


def test_a_model_that_gives_no_numbers_gets_no_score(tmp_path: Path) -> None:
    before = save_model(tmp_path / "before")

    def broken(state: dict[str, torch.Tensor]) -> None:
        state[MATRIX][:] = torch.nan

    after = edited(save_model(tmp_path / "after"), broken)
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"text": "some text"}\n{"text": "more text"}\n')
    with pytest.raises(InputError, match=r"model after .* not finite on 2 of 2 items"):
        bequest.evaluate(before, after, texts=texts)
    assert HeldOutText(texts)(after) == math.inf > HeldOutText(texts)(before)
    if importlib.util.find_spec("lm_eval"):
        questions = tmp_path / "q.jsonl"
        questions.write_text('{"question": "?", "choices": ["a", "b"], "answer": 0}\n' * 3)
        with pytest.raises(InputError, match=r"model after .* 3 of 3 items of q"):
            bequest.evaluate(before, after, tasks=[str(questions)])


def test_an_image_model_that_gives_no_numbers_gets_no_score(tmp_path: Path) -> None:
    write_parquet(tmp_path / "images.parquet", 12, seed=1)
    before, after = (write_model(tmp_path / name, "vit", 3) for name in ("before", "after"))

    def broken(state: dict[str, torch.Tensor]) -> None:
        state["classifier.bias"][0] = torch.nan

    edited(after, broken)
    with pytest.raises(InputError, match=r"model after .* not finite"):
        bequest.evaluate(before, after, images=[str(tmp_path / "images.parquet")])


def identity(folder: Path, hashes: ContentHashes | None = None) -> str:
    (candidate,) = find_candidates([str(folder)], contents=hashes)
    return candidate.identity


def test_one_changed_number_or_file_makes_another_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    first = identity(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert identity(tmp_path / "copy") == first

    def last_row(state: dict[str, torch.Tensor]) -> None:
        # What training the embeddings of added tokens changes.
        state["model.embed_tokens.weight"][-1, -1] += 1

    assert identity(edited(tmp_path / "copy", last_row)) != first
    (folder / "added_tokens.json").write_text("{}")
    assert identity(folder) != first
    (folder / "LICENSE.txt").write_text("")
    (folder / "README.md").write_text("")
    second = identity(folder)
    (folder / "LICENSE.txt").write_text("other words")
    assert identity(folder) == second != first


def test_a_file_is_read_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = model_identity._hashes

    def counting(files: list[Path]) -> list[str]:
        read.extend(file.name for file in files)
        return original(files)

    monkeypatch.setattr(model_identity, "_hashes", counting)
    folder, kept = save_model(tmp_path / "model"), tmp_path / "kept.json"

    def fresh() -> tuple[str, list[str]]:
        read.clear()
        hashes = ContentHashes(kept)
        found = identity(folder, hashes)
        hashes.keep()
        return found, sorted(read)

    first, everything = fresh()
    # Files that were written a moment ago may be written again with the same times.
    assert fresh() == (first, everything) and "model.safetensors" in everything
    monkeypatch.setattr(model_identity, "_SETTLED_SECONDS", 0.0)
    assert fresh() == (first, everything)
    assert fresh() == (first, [])
    # The same place, size and time of writing, other contents.
    file = folder / "model.safetensors"
    told = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\x7f")
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    second, again = fresh()
    assert second != first and again == ["model.safetensors"]
    kept.write_text("no JSON")
    assert fresh() == (second, everything)


def test_segments_of_a_file_count_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_identity, "_SEGMENT_BYTES", 4)
    one, two, empty = (tmp_path / name for name in ("one", "two", "empty"))
    one.write_bytes(b"abcdefghij")
    two.write_bytes(b"efghabcdij")
    empty.write_bytes(b"")
    found = model_identity._hashes([one, two, empty])
    assert len(set(found)) == 3 and model_identity._hashes([one]) == found[:1]
