"""Configurations as hubs hold them, where transformers writes them otherwise, and stale periods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import bequest
from bequest import BequestError
from zoo import checks, keeper
from zoo.raw import read_folder
from zoo.specimen import draw_weights
from zoo.types import models, skipping

CHOSEN = (0, 2, 3, 5)


def _write(model_type: str, folder: Path, **fields: Any) -> None:
    config = models.config_of(model_type)
    for name, value in fields.items():
        setattr(config, name, value)
    model = models.model_class(model_type)._from_config(config)
    draw_weights(model, seed=0)
    model.save_pretrained(folder)


def _cut(source: Path, out: Path) -> dict[str, Any]:
    """Cut blocks that do not follow one another, hold them to the whole, return the config.json."""
    plan = bequest.inherit(source, out, layers=CHOSEN)
    whole, cut = checks.load_whole(source), checks.load_whole(out)
    path = plan.block_prefix.rstrip(".").replace("transformer.h", "model.layers")
    reference = skipping.with_blocks_skipped(whole, path, 6, CHOSEN)
    torch.testing.assert_close(skipping.logits(cut), skipping.logits(reference), rtol=0, atol=1e-5)
    stated: dict[str, Any] = json.loads((out / "config.json").read_text())
    return stated


def test_exaone_states_its_depth_under_another_name(tmp_path: Path) -> None:
    """EXAONE 3.5's own code reads `num_layers`; its blocks are called transformer.h."""
    source = tmp_path / "source"
    _write("exaone", source)
    keeper.edit_config(
        source,
        **{"num_hidden_layers": ..., "num_layers": 6, "rms_norm_eps": ...},
        **{"layer_norm_epsilon": 1e-3, "hidden_act": ..., "activation_function": "silu"},
    )
    assert any(key.startswith("transformer.h.0.") for key in read_folder(source))
    config = _cut(source, tmp_path / "out")
    assert config["num_layers"] == config.get("num_hidden_layers", 4) == 4
    assert config["layer_norm_epsilon"] == 1e-3
    bequest.inherit(source, tmp_path / "half", layers=3)
    bequest.grow(tmp_path / "half", source, tmp_path / "grown", layers=6)
    assert read_folder(tmp_path / "grown") == read_folder(source)
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["num_layers"] == 6


@pytest.mark.parametrize("model_type", ["exaone4", "exaone_moe"])
@pytest.mark.parametrize("pattern", ["LLLG", 3])
def test_exaone_with_another_pattern(model_type: str, pattern: str | int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write(model_type, source)
    keeper.edit_config(source, sliding_window_pattern=pattern)
    assert "sliding_window_pattern" not in _cut(source, tmp_path / "out")


def test_hunyuan_with_a_list_of_what_transformers_does_not_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write("hunyuan_v1_moe", source)
    lists = {"num_shared_expert": [1, 2, 3, 4, 5, 6], "moe_intermediate_size": [48, 1, 2, 3, 4, 5]}
    keeper.edit_config(source, **lists)
    config = _cut(source, tmp_path / "out")
    for name, values in lists.items():
        assert config[name] == [values[block] for block in CHOSEN]


def test_inkling_that_counts_its_dense_blocks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write("inkling_text", source, mlp_layer_types=["dense"] * 2 + ["sparse"] * 4)
    keeper.edit_config(source, mlp_layer_types=..., dense_mlp_idx=2)
    config = _cut(source, tmp_path / "out")
    assert "dense_mlp_idx" not in config
    assert config["mlp_layer_types"] == ["dense", "sparse", "sparse", "sparse"]


def test_glm_whose_shared_choices_follow_a_period(tmp_path: Path) -> None:
    """VLLM and SGLang make the kinds anew from these fields."""
    source, periods = tmp_path / "source", {"index_topk_freq": 2, "index_skip_topk_offset": 2}
    _write(
        "glm_moe_dsa", source, indexer_types=["full", "full", "shared", "full", "shared", "full"]
    )
    keeper.edit_config(source, **periods)
    bequest.inherit(source, tmp_path / "first", layers=3)
    assert periods.items() <= json.loads((tmp_path / "first" / "config.json").read_text()).items()
    bequest.inherit(source, tmp_path / "out", layers="0,1,3,5-5")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not periods.keys() & config.keys()
    assert config["indexer_types"] == ["full"] * 4


def test_bailing_whose_kinds_follow_a_period(tmp_path: Path) -> None:
    source = tmp_path / "source"
    full, linear = "full_attention", "linear_attention"
    _write("bailing_hybrid", source, layer_types=[linear, full] * 3, layer_group_size=2)
    for layers, expected in [("4", 2), ("0,2-3", 3), ("0-1,4-5", 2), ("1,3-3", 1)]:
        plan = bequest.inherit(source, tmp_path / "out", layers=layers, overwrite=True)
        assert plan.config["layer_group_size"] == expected
    with pytest.raises(BequestError, match="layer_group_size"):
        bequest.inherit(source, tmp_path / "refused", layers="1-3")
    assert not (tmp_path / "refused").exists()


def test_qwen4_whose_hash_counts_the_blocks_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _write("qwen4_exp_text", source)
    with pytest.raises(BequestError, match="keep block 0, or leave out block 3"):
        bequest.inherit(source, tmp_path / "out", layers="1-4")
    plan = bequest.inherit(source, tmp_path / "out", layers="1-2,4-5")
    assert plan.config["ple_layer_ids"] == []
