"""Keys that carry what torch.compile, checkpointed activations and DDP put into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import bequest
from bequest import BequestError
from bequest.checkpoints.checkpoint import without_wrappers
from zoo import checks, keeper, reference
from zoo.raw import read_folder


def _compiled_block(key: str) -> str:
    """`layers[i].compile()` by replacing the module."""
    parts = key.split(".")
    return ".".join([*parts[:3], "_orig_mod", *parts[3:]]) if "layers" in parts else key


WRAPPERS: list[Callable[[str], str]] = [
    lambda key: f"_orig_mod.{key}",
    lambda key: f"module.{key}",
    lambda key: f"module._orig_mod.{key}",
    lambda key: f"_orig_mod.module.{key}",
    lambda key: key.replace("mlp.", "mlp._checkpoint_wrapped_module."),
    _compiled_block,
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_checkpoint_is_cut_as_the_plain_one(
    wrap: Callable[[str], str], tmp_path: Path
) -> None:
    source = keeper.copy("llama", tmp_path / "source")
    state = load_file(source / "model.safetensors")
    save_file({wrap(key): value for key, value in state.items()}, source / "model.safetensors")
    bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    bequest.inherit(keeper.folder("llama"), tmp_path / "plain", layers="0,2,3")
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "plain")
    by_hand = reference.cut_by_hand(keeper.load(keeper.folder("llama")), (0, 2, 3))
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)


def test_a_prefix_that_only_some_keys_have_is_refused(tmp_path: Path) -> None:
    source = keeper.copy("llama", tmp_path / "source")
    state = load_file(source / "model.safetensors")
    wrapped = {f"module.{key}" if "norm" in key else key: value for key, value in state.items()}
    save_file(wrapped, source / "model.safetensors")
    with pytest.raises(BequestError):
        bequest.inherit(source, tmp_path / "out", layers="2")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_keys_that_would_become_one_are_left_alone() -> None:
    both = {"model.norm.weight": 1, "_orig_mod.model.norm.weight": 2}
    assert without_wrappers(both) == both
    assert without_wrappers({}) == {}
