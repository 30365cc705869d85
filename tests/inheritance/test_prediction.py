"""Prediction blocks are known by their count or by what transformers passes over; others are refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Dots3NoteConfig, HYV3Config, LlamaConfig

from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import find_blocks
from bequest.inheritance.config_cut import decoder_config, depth_of
from bequest.inheritance.prediction import prediction_tensors


def _left_out(config: Any, names: list[str]) -> frozenset[str]:
    blocks = find_blocks(names, depth_of(config), model="a model")
    return prediction_tensors(names, blocks, config, decoder_config(config), model="a model")


@pytest.mark.parametrize(
    ("config", "prefix"),
    [(HYV3Config(), "model.layers."), (Dots3NoteConfig(), "model.language_model.layers.")],
)
def test_blocks_that_only_transformers_knows(config: Any, prefix: str) -> None:
    """Hubs hold a block behind the last of these; what transformers reads need not count it."""
    depth = depth_of(config)
    names = [f"{prefix}{block}.mlp.weight" for block in range(depth + 1)]
    assert _left_out(config, names) == {f"{prefix}{depth}.mlp.weight"}
    with pytest.raises(UnsupportedModelError, match=f"num_hidden_layers = {depth}"):
        _left_out(config, [*names, f"{prefix}{depth + 1}.mlp.weight"])


def test_blocks_that_a_nested_configuration_counts() -> None:
    config = Dots3NoteConfig(text_config={"num_hidden_layers": 2, "num_nextn_predict_layers": 1})
    names = [f"model.language_model.layers.{block}.mlp.weight" for block in range(3)]
    assert _left_out(config, names) == {names[2]}


def test_blocks_that_nobody_knows() -> None:
    names = [f"model.layers.{block}.mlp.weight" for block in range(3)]
    with pytest.raises(UnsupportedModelError, match="tensors of 3 blocks"):
        _left_out(LlamaConfig(num_hidden_layers=2), names)
    assert _left_out(LlamaConfig(num_hidden_layers=3), [*names, "mtp.fc.weight"]) == frozenset()
