"""Models with code of their own, which the user trusts: cut by that code, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel, dynamic_module_utils

import bequest
from bequest import BequestError
from zoo import checks, keeper, reference

CODE = """
import torch
from transformers.models.llama import modeling_llama as llama

class {prefix}Attention(llama.LlamaAttention):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.{factor} = {value}

    def forward(self, hidden_states, *arguments, **options):
        output, weights = super().forward(hidden_states, *arguments, **options)
        return output * self.{factor}, weights

class {prefix}DecoderLayer(llama.LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.self_attn = {prefix}Attention(config, layer_idx)

class {prefix}Model(llama.LlamaModel):
    def __init__(self, config):
        super().__init__(config)
        blocks = [{prefix}DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.layers = torch.nn.ModuleList(blocks)
        self.post_init()

class {prefix}ForCausalLM(llama.LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = {prefix}Model(config)
        self.post_init()
"""


@pytest.fixture(autouse=True)
def _modules_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers copies a model's code into a cache before it imports it."""
    place = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", place)
    monkeypatch.syspath_prepend(place)


def _source(target: Path, *, prefix: str, factor: str, value: str) -> Path:
    keeper.copy("llama", target)
    (target / "modeling_homemade.py").write_text(
        CODE.format(prefix=prefix, factor=factor, value=value)
    )
    name = f"modeling_homemade.{prefix}ForCausalLM"
    keeper.edit_config(target, auto_map={"AutoModelForCausalLM": name})
    return target


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.mark.parametrize("prefix", ["Homemade", "Llama"])
def test_a_trusted_model_is_cut_by_its_own_code(prefix: str, tmp_path: Path) -> None:
    source = _source(tmp_path / "source", prefix=prefix, factor="factor", value="2.0")
    bequest.inherit(source, tmp_path / "out", layers="0,2,3", trust_remote_code=True)
    model = _load(tmp_path / "out")
    assert type(model).__module__.startswith("transformers_modules")
    checks.assert_behaves(model, reference.cut_by_hand(_load(source), (0, 2, 3)))


@pytest.mark.parametrize("factor", ["factor", "_factor"])
@pytest.mark.parametrize("prefix", ["Homemade", "Llama"])
def test_its_math_may_depend_on_the_number_of_a_block(
    prefix: str, factor: str, tmp_path: Path
) -> None:
    """Right for the first blocks, refused where a number changes."""
    value = "1 / (layer_idx + 1)"
    source = _source(tmp_path / "source", prefix=prefix, factor=factor, value=value)
    with pytest.raises(BequestError, match="factor"):
        bequest.inherit(source, tmp_path / "out", layers="0,2", trust_remote_code=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    bequest.inherit(source, tmp_path / "out", layers="2", trust_remote_code=True)
    checks.assert_behaves(_load(tmp_path / "out"), reference.cut_by_hand(_load(source), (0, 1)))


def test_what_is_not_trusted_never_runs(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", prefix="Homemade", factor="factor", value="2.0")
    (source / "modeling_homemade.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')")
    with pytest.raises(BequestError, match="trust"):
        bequest.inherit(source, tmp_path / "out", layers="2")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
