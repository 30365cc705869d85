"""The decoder of an image model is cut; its towers stay byte for byte, and it still sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bequest
from bequest import BequestError
from bequest.inheritance.architectures import MULTIMODAL
from zoo.raw import read_folder
from zoo.types import holding, models, multimodal


@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_a_type_is_cut_right_and_grown_back(model_type: str, tmp_path: Path) -> None:
    holding.hold(model_type, tmp_path)


def test_the_zoo_has_them_all() -> None:
    assert sorted(multimodal.MULTIMODAL) == sorted(MULTIMODAL)


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("layers", ["1-4", "0,2-5", "1"])
def test_blocks_that_receive_features_stay(model_type: str, layers: str, tmp_path: Path) -> None:
    models.build(model_type).save_pretrained(tmp_path / "source")
    with pytest.raises(BequestError, match="deepstack_visual_indexes"):
        bequest.inherit(tmp_path / "source", tmp_path / "out", layers=layers)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_a_configuration_as_hubs_hold_it(model_type: str, tmp_path: Path) -> None:
    """Qwen2-VL's fields of the decoder stand beside those of the tower."""
    source = tmp_path / "source"
    models.build(model_type).save_pretrained(source)
    before = holding.load_whole(model_type, source).config.to_dict()
    config = json.loads((source / "config.json").read_text())
    inner = config.pop("text_config")
    flat = {key: value for key, value in inner.items() if key not in ("model_type", "layer_types")}
    (source / "config.json").write_text(json.dumps({**flat, **config}))
    assert holding.load_whole(model_type, source).config.to_dict() == before
    bequest.inherit(source, tmp_path / "out", layers="0,2,3,5")
    cut = holding.load_whole(model_type, tmp_path / "out")
    assert cut.config.text_config.num_hidden_layers == 4
    kinds = before["text_config"]["layer_types"]
    assert cut.config.text_config.layer_types == [kinds[index] for index in (0, 2, 3, 5)]
    bequest.inherit(source, tmp_path / "half", layers="3")
    bequest.grow(tmp_path / "half", source, tmp_path / "grown", layers=6)
    assert read_folder(tmp_path / "grown") == read_folder(source)


def test_another_data_type(tmp_path: Path) -> None:
    models.build("llava").save_pretrained(tmp_path / "source")
    bequest.inherit(tmp_path / "source", tmp_path / "out", layers="3", dtype="bfloat16")
    cut = holding.load_whole("llava", tmp_path / "out")
    assert {str(parameter.dtype) for parameter in cut.parameters()} == {"torch.bfloat16"}
