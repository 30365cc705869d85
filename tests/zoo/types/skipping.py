"""A cut made without cutting: the whole model, in which the blocks left out pass on what they got.

Nothing is renumbered and the configuration stays, so whatever a kept block takes from its number,
its depth or its place is what the whole model gave it. That is what a cut must equal.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

PROMPT_LENGTH = 16
FAILS_AS_A_WHOLE = ("Llama4ForConditionalGeneration",)
"""Multimodal classes that fail on any input in transformers 5.24: `outputs.image_outputs` is read
from the decoder's output, which has none. Their decoder is run alone."""


def block_list(model: PreTrainedModel, path: str, depth: int) -> nn.ModuleList:
    """The list of blocks by the name it has in the checkpoint, which may lack the outer names."""
    wanted = f".{path}"
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and f".{name}".endswith(wanted):
            return module
    (renamed,) = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.endswith((".language_model.layers", "text_model.layers", "model.layers"))
        and len(module) == depth
    ]
    return renamed


def with_blocks_skipped(
    model: PreTrainedModel, path: str, depth: int, selection: Sequence[int]
) -> PreTrainedModel:
    """Return a copy of the model in which only the blocks of `selection` do anything."""
    skipping = copy.deepcopy(model)
    for index, block in enumerate(block_list(skipping, path, depth)):
        if index not in selection:
            block.register_forward_hook(_pass_on, with_kwargs=True)
    return skipping


def _pass_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    hidden_states = args[0] if args else kwargs["hidden_states"]
    if isinstance(output, torch.Tensor):
        return hidden_states
    if hasattr(output, "attn_output"):  # Reformer's blocks pass on two streams
        return output._replace(
            attn_output=kwargs["prev_attn_output"], hidden_states=kwargs["hidden_states"]
        )
    given = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
    if "output_g" in given:  # XLNet predicts from a second stream when it generates
        return given["output_h"], given["output_g"], *output[2:]
    if "prev_router_hidden_states" in given:  # ZAYA's routers add up over the blocks
        return hidden_states, given["prev_router_hidden_states"]
    return (hidden_states, *output[1:])


def runnable(model: PreTrainedModel) -> Any:
    """The part of a model that transformers can run: all of it, or its decoder."""
    return model.language_model if type(model).__name__ in FAILS_AS_A_WHOLE else model


def prompt(model: PreTrainedModel, length: int = PROMPT_LENGTH) -> torch.Tensor:
    """Two rows of random token ids, int64 [2, length]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(4, 60, (2, length), generator=generator)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of the prompt, [2, PROMPT_LENGTH, vocabulary], without a cache."""
    return runnable(model)(prompt(model), use_cache=False).logits


@torch.no_grad()
def generated(model: PreTrainedModel, tokens: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy generation with a cache: the sequences, and each new token's logits [2, tokens, v]."""
    found: Any = runnable(model).generate(
        prompt(model),
        do_sample=False,
        use_cache=True,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found.sequences, torch.stack(found.logits, 1)


@torch.no_grad()
def next_logits(model: PreTrainedModel, sequences: torch.Tensor, tokens: int = 4) -> torch.Tensor:
    """The logits that lead to the last `tokens` of the sequences, without a cache."""
    return runnable(model)(sequences[:, :-1], use_cache=False).logits[:, -tokens:]
