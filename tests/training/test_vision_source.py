"""Where the classifier comes from, and which are refused because their head is not their end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    ViTImageProcessorPil,
)

from bequest.errors import InputError
from bequest.training.vision_config import TASK, ImageConfig, ImageData
from bequest.training.vision_source import load_source
from tests.training.tiny_images import own_network, write_model


def config(model: Path | str, **changes: Any) -> ImageConfig:
    asked: dict[str, Any] = {"task": TASK, "model": str(model), "out": "out", **changes}
    return ImageConfig(data=ImageData(train="train"), **asked)


def two_headed(kind: str) -> Any:
    if kind == "deit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
        return DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes, num_labels=3))
    sizes = {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16]}
    return SwiftFormerForImageClassification(SwiftFormerConfig(**sizes, num_labels=3))


@pytest.mark.parametrize("kind", ["deit", "swiftformer"])
def test_two_heads_are_refused(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    two_headed(kind).save_pretrained(tmp_path / kind)
    side = 32 if kind == "deit" else 64
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(tmp_path / kind)
    with pytest.raises(
        InputError, match=r"head '.*' does not make the logits of model .* by itself"
    ):
        load_source(config(tmp_path / kind))


def test_what_comes_after_the_head_is_refused() -> None:
    network = torch.nn.Sequential(own_network(), torch.nn.Softmax(dim=1))
    with pytest.raises(InputError, match=r"head '0\.top' does not make the logits"):
        load_source(config("own", size=16), network)
    with pytest.raises(InputError, match=r"set size"):
        load_source(config("own"), own_network())


def test_a_folder_may_have_a_colon_in_its_path(tmp_path: Path) -> None:
    (tmp_path / "at:home").mkdir()
    source = load_source(config(write_model(tmp_path / "at:home" / "model")))
    assert source.location is not None and source.location.folder.parent.name == "at:home"
    with pytest.raises(InputError, match=r"model .*at:home/nothing cannot be made"):
        load_source(config(tmp_path / "at:home" / "nothing"))


def test_a_module_beside_the_caller_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console script does not have the working directory on its path."""
    name = "a_module_of_the_users_own"
    (tmp_path / f"{name}.py").write_text("from tests.training.tiny_images import own_network\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    try:
        source = load_source(config(f"{name}:own_network", size=16))
    finally:
        sys.modules.pop(name, None)
    assert source.code == tmp_path / f"{name}.py" and source.location is None
    assert source.classes == ["0", "1", "2", "3"]
