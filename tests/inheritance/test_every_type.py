"""Every decoder type of transformers, cut two ways and grown back, held to the whole model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import bequest
from bequest import BequestError
from bequest.inheritance.architectures import ARCHITECTURES, NESTED
from bequest.inheritance.config_cut import depth_of, require_decoder
from bequest.inheritance.plan import InheritancePlan
from bequest.inheritance.refused_types import REFUSED
from zoo.raw import Raw, read_folder
from zoo.types import models, page, skipping

INHERITED = [name for name in models.DECODERS if name not in REFUSED]
ALWAYS = {
    *("deepseek_v4", "gemma3", "gemma4_text", "gpt_neo", "jamba", "laguna", "llama"),
    *("longcat_flash", "minicpm3", "qwen3_next", "recurrent_gemma"),
}
"""Some that stand for the others, which run in the second stage."""
MATRIX = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in INHERITED
]
NO_CACHE = ("reformer",)
"""Whole models that transformers fails to generate with a cache: an einsum in `_hash_vectors`."""
WRONG_WITH_CACHE = ("minimax",)
"""Whole models that a cache makes wrong: MiniMax's counts its tokens in block 0, a linear one."""


def load_whole(model_type: str, folder: Path) -> PreTrainedModel:
    """Load a folder and hold the loader's report to be empty."""
    model, report = models.model_class(model_type).from_pretrained(folder, output_loading_info=True)
    assert {kind: found for kind, found in report.items() if found} == {}
    return model.eval()


def assert_bytes(plan: InheritancePlan, source: Path) -> None:
    """Hold every tensor to the source's: renumbered blocks, the rest as it was."""
    found, whole = read_folder(plan.target), read_folder(source)
    prefix, slots = plan.block_prefix, dict(enumerate(plan.source_blocks))
    expected = {}
    for key in found:
        name = key
        if key.startswith(prefix) and key.removeprefix(prefix).split(".")[0].isdigit():
            slot, _, rest = key.removeprefix(prefix).partition(".")
            name = f"{prefix}{slots[int(slot)]}.{rest}"
        expected[key] = whole[name]
    different = [key for key in found if found[key] != expected[key]]
    packed = ("embed_tokens_per_layer.weight", "per_layer_model_projection.weight")
    for key in [key for key in different if key.endswith(packed)]:
        axis = 1 if "embed" in key else 0
        assert found[key] == sliced(whole[key], axis, plan.source_blocks, 8)
        different.remove(key)
    assert different == []
    outside = {key for key in whole if not key.startswith(prefix)}
    assert outside <= found.keys()


def sliced(raw: Raw, axis: int, blocks: tuple[int, ...], depth: int) -> Raw:
    """The blocks' slices of a packed tensor."""
    whole = torch.frombuffer(bytearray(raw.data), dtype=torch.float32).reshape(raw.shape)
    parts = [whole.chunk(depth, axis)[block] for block in blocks]
    kept = torch.cat(parts, axis).contiguous()
    return Raw(raw.dtype, tuple(kept.shape), kept.numpy().tobytes())


def assert_generates(cut: PreTrainedModel, reference: PreTrainedModel, model_type: str) -> None:
    """Hold greedy generation with a cache to the whole model's in which blocks are skipped.

    The skipped blocks fill slots of their own, so a slot that stood for another's would show.
    """
    sequences, found = skipping.generated(cut)
    if model_type in WRONG_WITH_CACHE:
        expected = skipping.next_logits(reference, sequences)
    else:
        same, expected = skipping.generated(reference)
        assert torch.equal(sequences, same)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", MATRIX)
def test_a_type_is_cut_right_and_grown_back(model_type: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    models.build(model_type).save_pretrained(source)
    # Held to the model as loaded, not as built: transformers' YoutuPreTrainedModel._init_weights
    # zeroes the padding token's embedding (and so its head's row) even after loading a stored one.
    whole = load_whole(model_type, source)
    before = skipping.logits(whole)
    depth = depth_of(whole.config)
    half, chosen = models.half(model_type, depth), models.chosen(model_type)
    assert depth >= 4
    if model_type in models.FIRST_ONLY:
        with pytest.raises(BequestError, match="number"):
            bequest.inherit(source, tmp_path / "chosen", layers=chosen)
        chosen = tuple(range(depth - 1))
    for name, selection in {"half": half, "chosen": chosen}.items():
        out = tmp_path / name
        plan = bequest.inherit(source, out, layers=selection)
        assert plan.source_blocks == selection
        cut = load_whole(model_type, out)
        assert depth_of(cut.config) == len(selection)
        reference = skipping.with_blocks_skipped(
            whole, plan.block_prefix.rstrip("."), depth, selection
        )
        expected = skipping.logits(reference)
        assert (expected - before).abs().max() > 1e-3  # else nothing is shown by what follows
        torch.testing.assert_close(skipping.logits(cut), expected, rtol=0, atol=1e-5)
        if model_type not in NO_CACHE:
            assert_generates(cut, reference, model_type)
        assert_bytes(plan, source)
    if half[0] == 0 and half == tuple(range(len(half))):
        bequest.grow(tmp_path / "half", source, tmp_path / "grown", layers=depth)
        assert read_folder(tmp_path / "grown") == read_folder(source)
        torch.testing.assert_close(
            skipping.logits(load_whole(model_type, tmp_path / "grown")), before, rtol=0, atol=1e-5
        )


def test_a_wrong_slot_in_the_cache_is_seen() -> None:
    reference = models.build("llama")
    wrong = copy.deepcopy(reference)
    wrong.model.layers[2].self_attn.layer_idx = 1
    torch.testing.assert_close(skipping.logits(wrong), skipping.logits(reference))
    with pytest.raises((AssertionError, RuntimeError)):
        assert_generates(wrong, reference, "llama")
    assert_generates(reference, reference, "llama")


def test_every_type_of_transformers_is_known() -> None:
    """When transformers adds a type, this names it: search its code, then write down its facts."""
    known = {*ARCHITECTURES, *NESTED, *REFUSED, *models.ENCODER_DECODERS, *models.ENCODERS}
    assert sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - known) == []
    assert len(INHERITED) >= 150
    assert set(INHERITED) >= ALWAYS


@pytest.mark.parametrize("model_type", [*models.ENCODER_DECODERS, *models.ENCODERS, *REFUSED])
def test_what_is_not_cut_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(BequestError) as refusal:
        require_decoder({"model_type": model_type}, model="a model")
    message = str(refusal.value)
    assert repr(model_type) in message or f"({model_type})" in message
    assert "\n" not in message
    assert refusal.value.exit_code == 2
    assert len(message) < 400


def test_the_page_says_what_the_facts_say() -> None:
    """`PYTHONPATH=src:tests python -m zoo.types.page` writes it."""
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
