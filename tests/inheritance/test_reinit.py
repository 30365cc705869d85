"""What is drawn anew: from the model's own initialization, and nothing else with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bequest import inherit
from bequest.errors import InputError
from zoo import keeper


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def test_only_what_is_named_is_drawn(tmp_path: Path) -> None:
    inherit(keeper.folder("llama"), tmp_path / "plain", layers=2)
    plan = inherit(
        keeper.folder("llama"), tmp_path / "out", layers=2, reinit=["lm_head", "model.norm"]
    )
    assert plan.reinitialized == ("lm_head.weight", "model.norm.weight")
    before, after = weights(tmp_path / "plain"), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"lm_head.weight", "model.norm.weight"}
    assert torch.equal(after["model.norm.weight"], torch.ones_like(after["model.norm.weight"]))


def test_the_draw_is_the_models_own(tmp_path: Path) -> None:
    """A fresh model of a large vocabulary has the same spread in the same tensor."""
    model = AutoModelForCausalLM.from_pretrained(keeper.folder("llama"))
    model.resize_token_embeddings(4096)
    model.save_pretrained(tmp_path / "source")
    inherit(tmp_path / "source", tmp_path / "out", layers=1, reinit=["lm_head.weight"])
    drawn = weights(tmp_path / "out")["lm_head.weight"]
    assert drawn.mean().abs() < 1e-3
    assert drawn.std() == pytest.approx(model.config.initializer_range, rel=0.02)


def test_seeds_decide_and_neighbours_do_not(tmp_path: Path) -> None:
    source = keeper.folder("llama")
    inherit(source, tmp_path / "a", layers=2, reinit=["lm_head"], seed=1)
    inherit(source, tmp_path / "b", layers=2, reinit=["model.layers.1", "lm_head"], seed=1)
    inherit(source, tmp_path / "c", layers=2, reinit=["lm_head"], seed=2)
    a, b, c = (weights(tmp_path / name)["lm_head.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_global_generator_is_not_touched(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    inherit(keeper.folder("llama"), tmp_path / "out", layers=1, reinit=["lm_head"])
    assert torch.equal(torch.rand(3), expected)


def test_gpt2_scales_what_it_writes_to_the_residual_stream(tmp_path: Path) -> None:
    """GPT-2 draws c_proj with sigma / sqrt(2 n_layer), n_layer being the result's depth."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=8, n_embd=128, n_head=2, vocab_size=64, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "source")
    inherit(tmp_path / "source", tmp_path / "out", layers=2, reinit=["transformer.h.1"])
    drawn = weights(tmp_path / "out")
    scaled = drawn["transformer.h.1.mlp.c_proj.weight"].std().item()
    plain = drawn["transformer.h.1.mlp.c_fc.weight"].std().item()
    assert scaled == pytest.approx(0.02 / 2, rel=0.03)
    assert plain == pytest.approx(0.02, rel=0.03)


def test_dtype_of_the_draw(tmp_path: Path) -> None:
    inherit(
        keeper.folder("llama"), tmp_path / "out", layers=1, reinit=["lm_head"], dtype="bfloat16"
    )
    inherit(keeper.folder("llama"), tmp_path / "wide", layers=1, reinit=["lm_head"])
    narrow = weights(tmp_path / "out")["lm_head.weight"]
    assert torch.equal(narrow, weights(tmp_path / "wide")["lm_head.weight"].bfloat16())


def test_a_tied_head_is_drawn_with_its_embedding(tmp_path: Path) -> None:
    source = keeper.folder("llama_tied_bf16")
    with pytest.raises(InputError, match="tied"):
        inherit(source, tmp_path / "out", layers=1, reinit=["lm_head"])
    inherit(source, tmp_path / "out", layers=1, reinit=["model.embed_tokens"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("name", ["nothing", "model.layers.7", "lm_head.weigh", "layers"])
def test_a_name_that_matches_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reinit names"):
        inherit(keeper.folder("llama"), tmp_path / "out", layers=2, reinit=[name])
    assert not (tmp_path / "out").exists()
