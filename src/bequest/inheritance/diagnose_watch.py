"""A model's blocks and their attention, watched while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bequest.inheritance.diagnose_anatomy import Anatomy


def attention_widths(
    model: nn.Module, anatomy: Anatomy, input_ids: Tensor
) -> tuple[int | None, ...]:
    """Return how many tokens, itself included, a token of each block can look back on.

    That is the sequence's length, or less under a sliding window or in chunks. It is read off the
    zeros that all heads share in all sequences.

    Args:
        model: the model of `anatomy`.
        anatomy: from `find_anatomy`.
        input_ids: some sequences, count x length.

    Returns:
        A number a block; None for a block without softmax attention.
    """
    widths: list[int | None] = [None] * len(anatomy.blocks)

    def look(block: int, weights: Tensor) -> None:
        rows, columns = (weights != 0).flatten(0, -3).any(dim=0).nonzero(as_tuple=True)
        widths[block] = int((rows - columns).max()) + 1

    with torch.no_grad(), watching_attention(anatomy, look):
        model(input_ids=input_ids, use_cache=False)
    return tuple(widths)


@contextmanager
def watching_attention(anatomy: Anatomy, look: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Hand each block's attention matrices, batch x heads x length x length, to a function.

    Nothing holds them after it returns but the block itself, until it is done.
    """

    def hook(block: int, place: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: look(block, output[place].detach())

    handles = [
        found.module.register_forward_hook(hook(block, found.place))
        for block, found in enumerate(anatomy.attention)
        if found is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching_blocks(
    anatomy: Anatomy,
    look: Callable[[int, Tensor, Tensor], None],
) -> Iterator[None]:
    """Hand each block's input and output, batch x length x hidden, to a function."""
    inputs: dict[int, Tensor] = {}

    def before(block: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy, because some blocks add to their input in place.
            inputs[block] = hidden_input(args, kwargs).detach().clone()

        return hook

    def after(block: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: look(
            block, inputs.pop(block), hidden_output(output).detach()
        )

    handles = []
    for block, module in enumerate(anatomy.blocks):
        handles.append(module.register_forward_pre_hook(before(block), with_kwargs=True))
        handles.append(module.register_forward_hook(after(block)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states among what a block is called with."""
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def hidden_output(output: Any) -> Tensor:
    """Return the hidden states among what a block returns."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
