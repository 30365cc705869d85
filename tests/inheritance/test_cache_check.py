"""A cut without any attention of a mixed model would fail at its first cached token."""

from __future__ import annotations

import pytest

from bequest.errors import UnsupportedModelError
from bequest.inheritance.architectures import ARCHITECTURES
from bequest.inheritance.config_cut import cut_config
from zoo.types import models

MIXED = {
    "bailing_hybrid": (0, 3, 5),
    "bamba": (0, 3, 5),
    "granitemoehybrid": (0, 3, 5),
    "jamba": (0, 2, 3, 4),
    "kimi_linear": (0, 3, 5),
    "lfm2": (0, 3, 5),
    "lfm2_moe": (0, 3, 5),
    "lfm3": (0, 3, 5),
    "nemotron_h": (0, 1, 3, 4),
    "qwen3_5_moe_text": (0, 3, 5),
    "qwen3_5_text": (0, 3, 5),
    "qwen3_next": (0, 3, 5),
    "qwen4_exp_text": (0, 3),
    "recurrent_gemma": (0, 3),
    "zamba": (0, 2, 4),
}
"""Blocks without attention; in transformers 5.23 their cached generation raises ValueError."""


@pytest.mark.parametrize("model_type", MIXED)
def test_blocks_without_attention_are_refused(model_type: str) -> None:
    source = models.config_of(model_type).to_dict()
    with pytest.raises(UnsupportedModelError, match=r"has attention.*such as [12]\.$"):
        cut_config(source, MIXED[model_type], ARCHITECTURES[model_type], model="it")


@pytest.mark.parametrize("model_type", ["falcon_h1", "falcon_mamba", "mamba", "mamba2", "zaya"])
def test_what_needs_no_other_block_is_cut_to_any(model_type: str) -> None:
    source = models.config_of(model_type).to_dict()
    cut, _ = cut_config(source, (2,), ARCHITECTURES[model_type], model="it")
    assert cut["num_hidden_layers"] == 1
