"""Finding the blocks among keys."""

from __future__ import annotations

import pytest

from bequest.errors import CheckpointError, UnsupportedModelError
from bequest.inheritance.blocks import find_blocks


def keys(prefix: str, count: int, rest: str = "mlp.weight") -> list[str]:
    return [f"{prefix}{number}.{rest}" for number in range(count)]


def test_the_outermost_number_is_the_block() -> None:
    names = [f"model.layers.{b}.mlp.experts.{e}.weight" for b in range(3) for e in range(3)]
    blocks = find_blocks([*names, "model.norm.weight"], 3, model="m")
    assert blocks.prefix == "model.layers."
    assert blocks.split("model.layers.2.mlp.experts.1.weight") == (2, "mlp.experts.1.weight")
    assert blocks.split("model.norm.weight") is None
    assert blocks.join(1, "mlp.weight") == "model.layers.1.mlp.weight"


def test_blocks_without_a_prefix_above_them() -> None:
    assert find_blocks(keys("h.", 4), 4, model="m").prefix == "h."


def test_blocks_beyond_the_stated_depth_are_counted() -> None:
    assert find_blocks(keys("layers.", 5), 4, model="m").num_extra == 1


def test_a_missing_block_is_named() -> None:
    names = [key for key in keys("layers.", 4) if ".2." not in key]
    with pytest.raises(CheckpointError, match=r"block 2 \(layers\.2"):
        find_blocks(names, 4, model="m")


def test_two_lists_of_blocks_are_not_guessed_between() -> None:
    with pytest.raises(UnsupportedModelError, match="several"):
        find_blocks([*keys("a.layers.", 2), *keys("b.layers.", 2)], 2, model="m")


def test_no_blocks() -> None:
    with pytest.raises(UnsupportedModelError, match="no numbered blocks"):
        find_blocks(["weight"], 2, model="m")
