"""What the comparison of blocks leaves out tells of other blocks: the cut is right without it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import bequest
from bequest.errors import UnsupportedModelError
from bequest.inheritance.architectures import ARCHITECTURES
from bequest.inheritance.config_cut import cut_config, read_config
from bequest.inheritance.identity import build_on_meta, compare_blocks, find_block_modules
from zoo.types import models, skipping


def _owners(config: Any) -> dict[int, int]:
    """For each block that reads another's keys, the block that it reads."""
    modes, kinds = config.kv_sharing_modes, config.layer_types
    owner = {kinds[index]: index for index, mode in enumerate(modes) if mode == "store"}
    return {index: owner[kinds[index]] for index, mode in enumerate(modes) if mode == "reuse"}


@pytest.mark.parametrize("model_type", ["gemma3n_text", "gemma4_text", "gemma4_unified_text"])
def test_in_every_cut_shared_keys_are_read_from_the_block_they_were(model_type: str) -> None:
    whole = models.config_of(model_type)
    source, before = whole.to_dict(), _owners(whole)
    assert len(before) == 3
    readers = refused = 0
    for length in range(1, 9):
        for selection in combinations(range(8), length):
            try:
                cut, _ = cut_config(source, selection, ARCHITECTURES[model_type], model="it")
            except UnsupportedModelError:
                refused += 1
                continue
            after = {
                selection[reader]: selection[owner]
                for reader, owner in _owners(read_config(cut, model="the cut")).items()
            }
            assert after == {index: before[index] for index in selection if index in before}
            readers += len(after)
    assert readers > 20
    assert refused > 20


@pytest.mark.parametrize(
    ("model_type", "prefix", "wrong"),
    [
        ("gpt_neo", "transformer.h.", {"attention_types": [[["local", "global"], 3]]}),
        (
            "reformer",
            "reformer.encoder.layers.",
            {"attn_layers": ["lsh", "local", "lsh", "local", "lsh", "lsh"]},
        ),
    ],
)
def test_a_block_of_another_kind_is_found_though_the_list_is_not_compared(
    model_type: str, prefix: str, wrong: dict[str, Any]
) -> None:
    config = models.config_of(model_type)
    other = type(config)(**{**models.settings(model_type), **wrong})
    source, result = (
        find_block_modules(build_on_meta(each), prefix, 6) for each in (config, other)
    )
    compare_blocks(source, source, range(6), model="it")
    with pytest.raises(UnsupportedModelError, match="block 0 would be another one"):
        compare_blocks(source, result, range(6), model="it")


def _reformer(folder: Path, monkeypatch: pytest.MonkeyPatch, *, local: int, lsh: int) -> Path:
    chunks = {"local_attn_chunk_length": local, "lsh_attn_chunk_length": lsh}
    monkeypatch.setitem(models.OWN, "reformer", {**models.OWN["reformer"], **chunks})
    models.build("reformer").save_pretrained(folder)
    return folder


def test_lsh_blocks_that_would_be_padded_to_fewer_tokens_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _reformer(tmp_path / "source", monkeypatch, local=8, lsh=4)
    with pytest.raises(UnsupportedModelError, match="keep a local block"):
        bequest.inherit(source, tmp_path / "cut", layers=(1, 2, 4))


@pytest.mark.parametrize("layers", [(1, 2, 4), (0, 3, 5)])
def test_reformer_blocks_of_one_kind_are_padded_as_they_were(
    layers: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _reformer(tmp_path / "source", monkeypatch, local=4, lsh=8)
    plan = bequest.inherit(source, tmp_path / "cut", layers=layers)
    load = models.model_class("reformer").from_pretrained
    whole, cut = load(source).eval(), load(plan.target).eval()
    reference = skipping.with_blocks_skipped(whole, plan.block_prefix.rstrip("."), 6, layers)
    for length in (3, 6, 10, 12, 16):
        tokens = skipping.prompt(whole, length)
        with torch.no_grad():
            expected = reference(tokens, use_cache=False).logits
            found = cut(tokens, use_cache=False).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
