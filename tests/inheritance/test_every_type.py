"""Every decoder type of transformers, cut two ways and grown back, held to the whole model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bequest import BequestError
from bequest.inheritance.architectures import ARCHITECTURES, MULTIMODAL, NESTED
from bequest.inheritance.config_cut import require_decoder
from bequest.inheritance.refused_types import REFUSED
from zoo.types import holding, models, page, peer, skipping

INHERITED = [name for name in models.DECODERS if name not in REFUSED]


@pytest.mark.parametrize("model_type", INHERITED)
def test_a_type_is_cut_right_and_grown_back(model_type: str, tmp_path: Path) -> None:
    holding.hold(model_type, tmp_path)


def test_a_wrong_slot_in_the_cache_is_seen() -> None:
    reference = models.build("llama")
    wrong = copy.deepcopy(reference)
    wrong.model.layers[2].self_attn.layer_idx = 1
    torch.testing.assert_close(skipping.logits(wrong), skipping.logits(reference))
    with pytest.raises((AssertionError, RuntimeError)):
        holding.assert_generates(wrong, reference, "llama")
    holding.assert_generates(reference, reference, "llama")


def test_every_type_of_transformers_is_known() -> None:
    """When transformers adds a type, this names it: search its code, then write down its facts."""
    known = {*ARCHITECTURES, *NESTED, *REFUSED, *models.ENCODER_DECODERS, *models.ENCODERS}
    assert sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - known) == []
    assert len(INHERITED) >= 150


@pytest.mark.parametrize("model_type", [*models.ENCODER_DECODERS, *models.ENCODERS, *REFUSED])
def test_what_is_not_cut_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(BequestError) as refusal:
        require_decoder({"model_type": model_type}, model="a model")
    message = str(refusal.value)
    assert repr(model_type) in message or f"({model_type})" in message
    assert "\n" not in message
    assert refusal.value.exit_code == 2
    assert len(message) < 400


def test_mergekit_was_tried_on_every_type() -> None:
    """`benchmarks.mergekit_types TYPE ...` tries it, in an environment of its own."""
    assert sorted(peer.record()["verdicts"]) == sorted([*INHERITED, *MULTIMODAL])


def test_the_page_says_what_the_facts_say() -> None:
    """`PYTHONPATH=src:tests python -m zoo.types.page` writes it."""
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
