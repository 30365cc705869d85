"""Quantized checkpoints: blocks and scales are copied, names in the configuration follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssForCausalLM, PreTrainedModel

import bequest
from bequest import BequestError
from zoo import keeper, quantized
from zoo.types import models, skipping


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return load_file(folder / "model.safetensors"), config["quantization_config"]


def _assert_blocks(source: Path, out: Path, selection: tuple[int, ...]) -> None:
    """Hold every tensor to the source's, bit for bit, scales included."""
    before, after = _read(source)[0], _read(out)[0]
    expected = {}
    for key, tensor in before.items():
        parts = key.split(".")
        if "layers" in parts:
            place = parts.index("layers") + 1
            if int(parts[place]) not in selection:
                continue
            parts[place] = str(selection.index(int(parts[place])))
        expected[".".join(parts)] = tensor
    assert after.keys() == expected.keys()
    for key, tensor in expected.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key].view(torch.uint8), tensor.view(torch.uint8)), key


@pytest.mark.parametrize("layout", quantized.LAYOUTS)
def test_a_cut_renumbers_what_was_left_unquantized(layout: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    field = quantized.write(layout, source)
    bequest.inherit(source, tmp_path / "out", layers="0,2-3")
    _assert_blocks(source, tmp_path / "out", (0, 2, 3))
    before, after = _read(source)[1], _read(tmp_path / "out")[1]
    assert after == {**before, field: ["lm_head", "model.layers.1.mlp.down_proj"]}
    bequest.inherit(source, tmp_path / "half", layers="2")
    assert _read(tmp_path / "half")[1] == {**before, field: ["lm_head"]}


def _dequantized(folder: Path) -> PreTrainedModel:
    """What transformers makes of it where there is no GPU: all weights unpacked to bfloat16."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert {kind: found for kind, found in report.items() if found} == {}
    return model.eval()


def test_fp8_runs_as_the_whole_with_blocks_skipped(tmp_path: Path) -> None:
    quantized.write("fp8", tmp_path / "source")
    whole = _dequantized(tmp_path / "source")
    plain = keeper.load(keeper.folder("llama"))
    assert (skipping.logits(whole) - skipping.logits(plain)).abs().max() > 1e-3
    bequest.inherit(tmp_path / "source", tmp_path / "out", layers="0,2-3")
    cut = _dequantized(tmp_path / "out")
    reference = skipping.with_blocks_skipped(whole, "model.layers", 4, (0, 2, 3))
    torch.testing.assert_close(skipping.logits(cut), skipping.logits(reference), rtol=0, atol=1e-5)
    matrix = cut.model.layers[1].mlp.down_proj.weight
    assert torch.equal(matrix, plain.model.layers[2].mlp.down_proj.weight)


def test_the_experts_of_gpt_oss(tmp_path: Path) -> None:
    """As OpenAI published them: four bits, three dimensions, a list of patterns."""
    source = tmp_path / "source"
    config = models.config_of("gpt_oss")
    config.intermediate_size = 64  # groups are of 32
    GptOssForCausalLM(config).save_pretrained(source)
    state = {}
    for key, tensor in load_file(source / "model.safetensors").items():
        packed = key.endswith(("experts.gate_up_proj", "experts.down_proj"))
        state |= quantized.mxfp4_matrix(key, tensor) if packed else {key: tensor}
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    patterns = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": patterns}
    keeper.edit_config(source, quantization_config=settings)
    bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    _assert_blocks(source, tmp_path / "out", (0, 2, 3))
    assert _read(tmp_path / "out")[1] == settings


CT = "compressed_tensors"
ENTRIES = [
    (
        "fp8",
        ["model.layers.2.mlp.down_proj", "lm_head"],
        ["model.layers.1.mlp.down_proj", "lm_head"],
    ),
    ("fp8", ["layers.3.mlp"], ["layers.2.mlp"]),
    ("fp8", ["model.layers.1", "model.layers.0"], ["model.layers.0"]),
    ("fp8", ["model.layers.4.mlp", "gate"], ["gate"]),
    ("fp8", ["vision_tower.layers.1.mlp"], ["vision_tower.layers.1.mlp"]),
    ("fp8", ["mtp.layers.0.mlp", "mtp.fc", "lm_head"], ["lm_head"]),
    ("fp8", ["mlp.experts.3"], ["mlp.experts.3"]),
    ("gptq", None, None),
    ("awq", ["o_proj", "model.layers.*.mlp"], ["o_proj", "model.layers.*.mlp"]),
    (CT, ["re:.*lm_head", "re:.*w2"], ["re:.*lm_head", "re:.*w2"]),
    (CT, [r"re:model\.layers\.0\."], [r"re:model\.layers\.0\."]),
]


@pytest.mark.parametrize(("layout", "entries", "expected"), ENTRIES)
def test_entries_that_follow_the_blocks(
    layout: str, entries: Any, expected: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    field = quantized.write(layout, source)
    keeper.edit_config(source, quantization_config={**_read(source)[1], field: entries})
    bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    assert _read(tmp_path / "out")[1][field] == expected


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    (CT, {"ignore": [r"re:model\.layers\.[12]\..*"]}, "quantization_config.ignore"),
    (CT, {"ignore": [r"re:.*\.layers\.\d\d\.mlp", "re:.*layers.3.mlp"]}, "layers.3.mlp"),
    (CT, {"ignore": ["re:model.layers.(2.mlp"]}, "quantization_config.ignore"),
    (CT, {"ignore": ["re:language_model.layers.2.mlp"]}, "language_model"),
    (CT, {"config_groups": {"a": {"targets": ["re:.*layers.[23].*"]}}}, "config_groups.a.targets"),
    ("fp8", {"modules_to_not_convert": ["2.mlp.gate"]}, "2.mlp.gate"),
    ("fp8", {"modules_to_not_convert": ["other.layers.0.mlp"]}, "other.layers.0.mlp"),
    ("fp8", {"modules_to_not_convert": "model.layers.2"}, "model.layers.2"),
    ("gptq", {"dynamic": {r"-:model\.layers\.2\..*": {}}}, "quantization_config.dynamic"),
    ("gptq", {"dynamic": {r".*\.1\..*": {"bits": 8}}}, "quantization_config.dynamic"),
    ("gptq", {"dynamic": {r"+:.*\.[2-9]\.(?!mlp)": {"bits": 8}}}, "quantization_config.dynamic"),
    ("gptq", {"dynamic": {r"-:.*\.(3": {}}}, "quantization_config.dynamic"),
    ("gptq", {"quant_method": "aqlm"}, "aqlm"),
    ("gptq", {"quant_method": None}, "unquantized"),
]


@pytest.mark.parametrize(("layout", "fields", "said"), FIELDS)
def test_what_cannot_follow_is_refused(
    layout: str, fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    quantized.write(layout, source)
    keeper.edit_config(source, quantization_config={**_read(source)[1], **fields})
    with pytest.raises(BequestError) as refusal:
        bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


RULES = {r"-:.*\.o_proj": {}, r"+:.*mlp.*": {"bits": 8}, r".*\.0\..*": {"bits": 8}}


def test_rules_that_mean_the_same_modules_stay(tmp_path: Path) -> None:
    source = tmp_path / "source"
    quantized.write("gptq", source)
    keeper.edit_config(source, quantization_config={**_read(source)[1], "dynamic": RULES})
    bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    assert _read(tmp_path / "out")[1]["dynamic"] == RULES


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_the_older_file_of_a_quantization_follows_too(file: str, tmp_path: Path) -> None:
    """What it says of blocks is cut, refused or copied, as in config.json."""
    source = tmp_path / "source"
    field = quantized.write("gptq", source)
    (source / file).write_text(json.dumps({"bits": 4, field: ["model.layers.2.mlp"]}))
    bequest.inherit(source, tmp_path / "out", layers="0,2,3")
    cut = json.loads((tmp_path / "out" / file).read_text())
    assert cut == {"bits": 4, field: ["model.layers.1.mlp"]}
    (source / file).write_text(json.dumps({"dynamic": {r".*\.1\..*": {"bits": 8}}}))
    with pytest.raises(BequestError, match=file):
        bequest.inherit(source, tmp_path / "refused", layers="0,2,3")
    bequest.inherit(source, tmp_path / "first", layers=2)
    assert (tmp_path / "first" / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize("layout", quantized.LAYOUTS)
@pytest.mark.parametrize("damage", ["a lost weight", "a stray scale", "another shape"])
def test_a_quantized_checkpoint_that_would_not_load(
    layout: str, damage: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    quantized.write(layout, source)
    state = load_file(source / "model.safetensors")
    module = "model.layers.0.mlp.up_proj"
    names = {"gptq": "qweight", "awq": "qweight", CT: "weight_packed"}
    weight = f"{module}.{names.get(layout, 'weight')}"
    beside = next(key for key in state if key.startswith(module) and key != weight)
    if damage == "a lost weight":
        for key in [key for key in state if key.startswith(module)]:
            del state[key]
    elif damage == "a stray scale":
        state[beside.replace("up_proj", "side_proj")] = state[beside].clone()
    else:
        for key in [key for key in state if key.startswith(module)]:
            state[key] = state[
                key.replace("layers.0.mlp.up_proj", "layers.0.self_attn.k_proj")
            ].clone()
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BequestError) as refusal:
        bequest.inherit(source, tmp_path / "out", layers="2")
    assert "layers.0.mlp" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"reinit": ["lm_head"]}])
def test_more_than_copying_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    quantized.write("fp8", tmp_path / "source")
    with pytest.raises(BequestError, match=next(iter(options))):
        bequest.inherit(tmp_path / "source", tmp_path / "out", layers="2", **options)
    bequest.inherit(tmp_path / "source", tmp_path / "half", layers="2")
    with pytest.raises(BequestError, match="growing"):
        bequest.grow(tmp_path / "half", tmp_path / "source", tmp_path / "out", layers=4)


def test_a_quantization_stated_elsewhere(tmp_path: Path) -> None:
    for fields, said in [
        ({"compression_config": {"format": "int"}}, "compression_config"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "text_config"),
    ]:
        keeper.copy("llama", tmp_path / said)
        keeper.edit_config(tmp_path / said, **fields)
        with pytest.raises(BequestError, match=said):
            bequest.inherit(tmp_path / said, tmp_path / "out", layers="2")
