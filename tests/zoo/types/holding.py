"""What the cuts of a type's tiny model are held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import bequest
from bequest import BequestError
from bequest.inheritance.blocks import find_blocks
from bequest.inheritance.config_cut import depth_of
from bequest.inheritance.plan import InheritancePlan
from bequest.inheritance.prediction import COUNTS
from zoo.raw import Raw, read_folder
from zoo.types import models, multimodal, prediction, skipping

NO_CACHE = ("reformer",)
"""Whole models that transformers fails to generate with a cache: an einsum in `_hash_vectors`."""
WRONG_WITH_CACHE = ("minimax",)
"""Whole models that a cache makes wrong: MiniMax's counts its tokens in block 0, a linear one."""


def load_whole(model_type: str, folder: Path) -> PreTrainedModel:
    """Load a folder and hold the loader's report to be empty."""
    model, report = models.model_class(model_type).from_pretrained(folder, output_loading_info=True)
    assert {kind: found for kind, found in report.items() if found} == {}
    return model.eval()


def assert_bytes(plan: InheritancePlan, source: Path, left_out: frozenset[str]) -> None:
    """Hold every tensor to the source's: renumbered blocks, the rest as it was or left out."""
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
    outside = {key for key in whole if not key.startswith(prefix)} - left_out
    assert outside == {key for key in found if not key.startswith(prefix)}


def assert_none_counted(folder: Path) -> None:
    """Hold a configuration to count no prediction blocks."""
    config = json.loads((folder / "config.json").read_text())
    decoder = config.get("text_config", config)
    assert [field for field in COUNTS if decoder.get(field)] == []


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


def assert_sees(cut: PreTrainedModel, reference: PreTrainedModel, model_type: str) -> None:
    """Hold what the cut makes of an image to what the whole does, where the type is shown one."""
    inputs = multimodal.picture(model_type)
    if inputs is None:
        return
    found = multimodal.logits(cut, inputs)
    torch.testing.assert_close(found, multimodal.logits(reference, inputs), rtol=0, atol=1e-5)
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    assert (multimodal.logits(cut, other) - found).abs().max() > 1e-3  # the image matters


def hold(model_type: str, folder: Path) -> None:
    """Cut a type's tiny model to its first half and to other blocks, and grow the half back.

    Both cuts are held to the whole model with the other blocks skipped: logits without a cache,
    greedy generation with one, what is made of an image where the type reads one, and every byte.
    Prediction blocks, which the source has where hubs do, are left out.
    """
    source = folder / "source"
    models.build(model_type).save_pretrained(source)
    # Held to the model as loaded, not as built: transformers' YoutuPreTrainedModel._init_weights
    # zeroes the padding token's embedding (and so its head's row) even after loading a stored one.
    whole = load_whole(model_type, source)
    before = skipping.logits(whole)
    depth = depth_of(whole.config)
    blocks = find_blocks(read_folder(source), depth, model=model_type)
    left_out = prediction.add(model_type, source, blocks.prefix, depth)
    half, chosen = models.half(model_type, depth), models.chosen(model_type)
    assert depth >= 4
    if model_type in models.FIRST_ONLY:
        with pytest.raises(BequestError, match="number"):
            bequest.inherit(source, folder / "chosen", layers=chosen)
        chosen = tuple(range(depth - 1))
    for name, selection in {"half": half, "chosen": chosen}.items():
        out = folder / name
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
        assert_sees(cut, reference, model_type)
        assert_bytes(plan, source, left_out)
        assert_none_counted(out)
    if half[0] == 0 and half == tuple(range(len(half))):
        bequest.grow(folder / "half", source, folder / "grown", layers=depth)
        original = read_folder(source)
        kept = {key: original[key] for key in original if key not in left_out}
        assert read_folder(folder / "grown") == kept
        torch.testing.assert_close(
            skipping.logits(load_whole(model_type, folder / "grown")), before, rtol=0, atol=1e-5
        )
