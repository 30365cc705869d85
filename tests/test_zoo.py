"""The zoo can see what it is for: each block, its place and its layer type change the logits."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from zoo import keeper, layouts, reference
from zoo.raw import read_folder

NAMES = list(keeper.SPECIMENS)
TWO_KINDS = [
    name
    for name, specimen in keeper.SPECIMENS.items()
    if len(set(getattr(specimen.config(), "layer_types", None) or ())) > 1
]


@pytest.mark.parametrize("name", NAMES)
def test_keeping_every_block_by_hand_keeps_the_model(name: str) -> None:
    model = keeper.load(keeper.folder(name))
    whole = reference.cut_by_hand(model, range(keeper.SPECIMENS[name].depth))
    assert torch.equal(reference.logits(model), reference.logits(whole))


@pytest.mark.parametrize("name", NAMES)
def test_every_selection_of_one_block_less_gives_other_logits(name: str) -> None:
    model = keeper.load(keeper.folder(name))
    depth = keeper.SPECIMENS[name].depth
    seen = [reference.logits(model)]
    for left_out in range(depth):
        rest = [index for index in range(depth) if index != left_out]
        seen.append(reference.logits(reference.cut_by_hand(model, rest)))
    for one in range(len(seen)):
        for other in range(one):
            assert (seen[one] - seen[other]).abs().max() > 0.05


@pytest.mark.parametrize("name", TWO_KINDS)
def test_a_wrong_layer_type_changes_the_logits(name: str) -> None:
    """The mistake of the tools before us: the first entries of the list for any selection."""
    model = keeper.load(keeper.folder(name))
    kinds = sorted(set(model.config.layer_types))
    for index in range(len(model.config.layer_types)):
        config = copy.deepcopy(model.config)
        types = list(config.layer_types)
        types[index] = kinds[1 - kinds.index(types[index])]
        config.layer_types = types
        if len(set(types)) == 1:
            continue
        wrong = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
        wrong.load_state_dict(model.state_dict())
        assert (reference.logits(model) - reference.logits(wrong)).abs().max() > 0.01


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize(
    "name", ["llama_tied_bf16", "opt_projected_post_norm", "gpt2_as_published"]
)
def test_every_layout_is_the_same_model(name: str, layout: str) -> None:
    plain, other = keeper.folder(name), keeper.folder(name, layout)
    assert read_folder(plain) == read_folder(other)
    assert torch.equal(reference.logits(keeper.load(plain)), reference.logits(keeper.load(other)))


@pytest.mark.parametrize(
    "name", [name for name, specimen in keeper.SPECIMENS.items() if specimen.hub_state is None]
)
def test_no_two_tensors_of_a_model_are_equal(name: str) -> None:
    """Else a block in the wrong place could pass for the right one."""
    tensors = [raw.data for raw in read_folder(keeper.folder(name)).values()]
    assert len(set(tensors)) == len(tensors)
