"""Every architecture of the zoo, cut two ways, held to a model cut by hand."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import bequest
from zoo import checks, keeper, layouts, reference
from zoo.raw import read_folder

CUTS = [(name, which) for name in keeper.SPECIMENS for which in ("half", "chosen")]
IN_OTHER_LAYOUTS = [
    "llama_tied_bf16",
    "qwen2_max_window_layers",
    "gpt2_as_published",
    "opt_projected_post_norm",
    "qwen3_moe_mlp_only",
    "deepseek_v3_prediction_block",
]


@cache
def _room() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="matrix-")


@cache
def _cut(name: str, which: str) -> Path:
    """Inherit once a session; `half` is asked for by a number, `chosen` by the blocks' names."""
    specimen = keeper.SPECIMENS[name]
    layers = str(len(specimen.half)) if which == "half" else _spec(specimen.chosen)
    out = Path(_room().name) / f"{name}-{which}"
    bequest.inherit(keeper.folder(name), out, layers=layers)
    return out


def _spec(selection: tuple[int, ...]) -> str:
    return ",".join(f"{index}-{index}" if index % 2 else str(index) for index in selection)


@pytest.mark.parametrize(("name", "which"), CUTS)
def test_loads_whole_and_runs_as_the_model_built_by_hand(name: str, which: str) -> None:
    model = checks.load_whole(_cut(name, which))
    selection = getattr(keeper.SPECIMENS[name], which)
    source = keeper.load(keeper.folder(name))
    checks.assert_behaves(model, reference.cut_by_hand(source, selection))
    assert model.dtype == source.dtype


@pytest.mark.parametrize(("name", "which"), CUTS)
def test_every_tensor_is_its_source_byte_for_byte(name: str, which: str) -> None:
    specimen, source = keeper.SPECIMENS[name], keeper.folder(name)
    expected = checks.cut_tensors(specimen, source, getattr(specimen, which))
    checks.assert_tensors(read_folder(_cut(name, which)), expected, specimen)


@pytest.mark.parametrize(("name", "which"), CUTS)
def test_the_configuration_says_the_new_depth_and_nothing_else_changed(
    name: str, which: str
) -> None:
    selection = getattr(keeper.SPECIMENS[name], which)
    checks.assert_config(_cut(name, which), keeper.folder(name), selection)


@pytest.mark.parametrize("layout", [layout for layout in layouts.LAYOUTS if layout != "single"])
@pytest.mark.parametrize("name", IN_OTHER_LAYOUTS)
def test_the_layout_of_the_source_does_not_matter(name: str, layout: str, tmp_path: Path) -> None:
    specimen, source = keeper.SPECIMENS[name], keeper.folder(name, layout)
    out = tmp_path / "out"
    bequest.inherit(source, out, layers=list(specimen.chosen))
    expected = checks.cut_tensors(specimen, source, specimen.chosen)
    checks.assert_tensors(read_folder(out), expected, specimen)
    by_hand = reference.cut_by_hand(keeper.load(source), specimen.chosen)
    checks.assert_behaves(checks.load_whole(out), by_hand)
    assert not list(out.glob("*.bin*"))


@pytest.mark.parametrize("limit", [20_000, "20KB"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2_as_published"])
def test_a_sharded_output_is_the_same_and_keeps_to_the_size(
    name: str, limit: str | int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bequest.inherit(
        keeper.folder(name), out, layers=list(keeper.SPECIMENS[name].chosen), max_shard_size=limit
    )
    assert read_folder(out) == read_folder(_cut(name, "chosen"))
    checks.assert_behaves(checks.load_whole(out), keeper.load(_cut(name, "chosen")))
    shards = sorted(out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert {shard.name for shard in shards} == set(index["weight_map"].values())
    total = 0
    for shard in shards:
        tensors = [
            raw for key, raw in read_folder(out).items() if index["weight_map"][key] == shard.name
        ]
        size = sum(len(raw.data) for raw in tensors)
        total += size
        assert size <= 20_000 or len(tensors) == 1
    assert index["metadata"]["total_size"] == total


def test_one_number_means_as_many_blocks_and_a_sequence_the_blocks(tmp_path: Path) -> None:
    source = keeper.folder("llama")
    for place, layers in enumerate(["3", 3, "0-2", "0,1,2", [0, 1, 2], (0, 1, 2), range(3)]):
        bequest.inherit(source, tmp_path / str(place), layers=layers)
        assert read_folder(tmp_path / str(place)) == read_folder(tmp_path / "0")
    bequest.inherit(source, tmp_path / "one", layers=[3])
    assert AutoConfig.from_pretrained(tmp_path / "one").num_hidden_layers == 1


@pytest.mark.parametrize("name", ["llama", "gemma3_pattern", "qwen3_moe_sparse_step", "olmo3"])
def test_all_blocks_is_the_model_itself(name: str, tmp_path: Path) -> None:
    source = keeper.folder(name)
    bequest.inherit(source, tmp_path / "out", layers=str(keeper.SPECIMENS[name].depth))
    assert read_folder(tmp_path / "out") == read_folder(source)
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), keeper.load(source))


@pytest.mark.parametrize("name", [name for name in keeper.SPECIMENS if "gemma3" in name])
def test_blocks_of_one_kind_alone(name: str, tmp_path: Path) -> None:
    """Gemma 3 builds a rope for each kind in the list; a kind may have gone."""
    source = keeper.load(keeper.folder(name))
    for kind in ("sliding_attention", "full_attention"):
        selection = [i for i, each in enumerate(source.config.layer_types) if each == kind]
        bequest.inherit(keeper.folder(name), tmp_path / kind, layers=selection)
        model = checks.load_whole(tmp_path / kind)
        checks.assert_behaves(model, reference.cut_by_hand(source, selection))


def test_thresholds_agree_with_the_lists(tmp_path: Path) -> None:
    """A reader that goes by the older field, as other engines do, must see the same blocks."""
    qwen2 = _cut("qwen2_max_window_layers", "chosen")
    config = json.loads((qwen2 / "config.json").read_text())
    windowed = [index >= config["max_window_layers"] for index in range(3)]
    assert windowed == [False, False, True]
    gemma3 = json.loads((_cut("gemma3_pattern", "chosen") / "config.json").read_text())
    kinds = AutoConfig.from_pretrained(_cut("gemma3_pattern", "chosen")).layer_types
    pattern = gemma3.get("sliding_window_pattern")
    by_pattern = pattern and [bool((index + 1) % pattern) for index in range(4)]
    assert pattern is None or by_pattern == [kind == "sliding_attention" for kind in kinds]


def test_the_prediction_block_of_deepseek_goes_with_its_count() -> None:
    """It belongs behind the last block; a count without tensors would break `generate`'s use."""
    out = _cut("deepseek_v3_prediction_block", "half")
    config = AutoConfig.from_pretrained(out)
    assert config.num_nextn_predict_layers == 0
    assert max(int(key.split(".")[2]) for key in read_folder(out) if ".layers." in key) == 1


def test_gpt2_scaled_by_its_index_may_keep_its_first_blocks(tmp_path: Path) -> None:
    source = keeper.copy("gpt2", tmp_path / "source")
    keeper.edit_config(source, scale_attn_by_inverse_layer_idx=True)
    bequest.inherit(source, tmp_path / "out", layers="3")
    by_hand = reference.cut_by_hand(keeper.load(source), range(3))
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "llama_old_config",
        "llama_tied_bf16",
        "opt_projected_post_norm",
        "gpt2_as_published",
        "gpt_neox_as_published",
        "deepseek_v3",
        "deepseek_v3_prediction_block",
    ],
)
def test_another_data_type_is_what_transformers_makes_of_the_source(
    name: str, dtype: str, tmp_path: Path
) -> None:
    """What a model keeps in float32, as DeepSeek's routing bias, keeps all its digits."""
    specimen, source = keeper.SPECIMENS[name], keeper.folder(name)
    bequest.inherit(source, tmp_path / "out", layers=specimen.chosen, dtype=dtype)
    model = checks.load_whole(tmp_path / "out")
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    by_hand = reference.cut_by_hand(whole, specimen.chosen)
    assert model.dtype == getattr(torch, dtype)
    found, expected = model.state_dict(), by_hand.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert [key for key in found if found[key].dtype != expected[key].dtype] == []
    if dtype != "float64":  # some of transformers' models compute in float32 within
        checks.assert_behaves(model, by_hand)
