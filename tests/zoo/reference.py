"""The model with the chosen blocks, built by hand: transformers' own modules, put in a new list."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

PROMPT_LENGTH = 16
"""Four times the zoo's sliding windows."""


def cut_by_hand(model: PreTrainedModel, selection: Sequence[int]) -> PreTrainedModel:
    """Keep the blocks of `selection`, each with the layer type, rope and width it was built with.

    What a block does was settled when it was built from the whole configuration, so moving the
    module keeps it. Two things are looked up by position when the model runs: the block's slot in
    the cache, and its mask (and rope) by `config.layer_types`; both are set to what the block was.

    Args:
        model: the whole model; it stays as it is.
        selection: the blocks to keep, in order.
    """
    cut = copy.deepcopy(model)
    path, blocks = block_list(cut)
    parent, _, name = path.rpartition(".")
    setattr(cut.get_submodule(parent), name, nn.ModuleList(blocks[index] for index in selection))
    for slot, index in enumerate(selection):
        for module in blocks[index].modules():
            if hasattr(module, "layer_idx"):
                assert module.layer_idx == index
                module.layer_idx = slot
    layer_types = getattr(cut.config, "layer_types", None)
    cut.config.num_hidden_layers = len(selection)
    if layer_types is not None:
        cut.config.layer_types = [layer_types[index] for index in selection]
    return cut


def block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The one list of the model that is as long as the model is deep, and its name."""
    (found,) = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == model.config.num_hidden_layers
        and ".experts" not in path
    ]
    return found


def prompt(model: PreTrainedModel, length: int = PROMPT_LENGTH) -> torch.Tensor:
    """Two rows of random token ids, int64 [2, length]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, model.config.vocab_size, (2, length), generator=generator)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of the prompt, [2, PROMPT_LENGTH, vocabulary], in the model's own data type."""
    return model(prompt(model)).logits


def greedy(model: PreTrainedModel, new_tokens: int = 8) -> torch.Tensor:
    """The prompt and `new_tokens` greedy tokens, through the cache; no token ends it early."""
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    return model.generate(prompt(model, 10), generation_config=config)
