"""Where a model's blocks and attention matrices are: found by watching it run, never by name.

A few tokens are run through the model with a hook on every module. The blocks are the list of
modules that run once each, in order; a block's attention is what one of its modules returns as a
heads x tokens x tokens matrix. Independently of that, every softmax over tokens is counted while a
block runs, so that attention whose weights are not returned is refused rather than overlooked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bequest.errors import UnsupportedModelError

PROBE_TOKENS = 13
"""Tokens of the trial run: no model has 13 channels in a head, or 13 experts."""
_EVERYWHERE = (
    "Norm",
    "MLP",
    "Mlp",
    "Dropout",
    "Linear",
    "Identity",
    "Moe",
    "Expert",
    "FeedForward",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionOutput:
    """The module of a block that returns the block's attention matrices."""

    module: nn.Module
    """Such as LlamaAttention."""
    place: int
    """Which of the values it returns they are."""
    num_heads: int
    """Query heads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """A model's blocks, and where in them attention matrices appear."""

    blocks: nn.ModuleList
    """All blocks, in order."""
    attention: tuple[AttentionOutput | None, ...]
    """For each block, None if it has no softmax attention."""
    kinds: tuple[str, ...]
    """For each block, what it mixes tokens with: its layer type, or its module's class."""
    values: tuple[int | None, ...]
    """How many values each block returns in a tuple; None where it returns hidden states alone."""


def find_anatomy(model: nn.Module, input_ids: Tensor) -> Anatomy:
    """Find a model's blocks and their attention.

    Args:
        model: a causal language model of transformers with eager attention, in evaluation mode.
        input_ids: one sequence of at least `PROBE_TOKENS` tokens, 1 x length, on the model's device.

    Raises:
        UnsupportedModelError: the blocks cannot be told, a block's attention is not returned or
            not causal, or no block has softmax attention.
    """
    name = type(model).__name__
    probe = input_ids[:1, :PROBE_TOKENS]
    seen = _Probe(model, probe.shape[1])
    with torch.no_grad(), seen.watching():
        model(input_ids=probe, use_cache=False)
    blocks = seen.blocks()
    prefix = next(path for path, module in model.named_modules() if module is blocks)
    attention = [seen.attention_of(f"{prefix}.{number}", blocks) for number in range(len(blocks))]
    for number, found in enumerate(attention):
        if found is None and number in seen.softmax_in[id(blocks)]:
            raise UnsupportedModelError(
                f"{name} computes softmax attention in block {number} without returning its "
                "weights under eager attention, so they cannot be diagnosed"
            )
    if not any(attention):
        raise UnsupportedModelError(f"{name} has no block with softmax attention to be diagnosed")
    return Anatomy(
        blocks=blocks,
        attention=tuple(attention),
        kinds=_kinds(model, blocks),
        values=tuple(seen.values[block] for block in blocks),
    )


class _Probe:
    """What was seen while a few tokens ran through a model."""

    def __init__(self, model: nn.Module, length: int) -> None:
        config: Any = model.config
        depth = config.get_text_config().num_hidden_layers
        self.model, self.length = model, length
        self.lists = [
            module
            for module in model.modules()
            if isinstance(module, nn.ModuleList) and len(module) == depth
        ]
        self.order: dict[int, list[int]] = {id(found): [] for found in self.lists}
        self.softmax_in: dict[int, set[int]] = {id(found): set() for found in self.lists}
        self.running: dict[int, int | None] = dict.fromkeys(self.order)
        self.values: dict[nn.Module, int | None] = {}
        self.matrices: dict[str, tuple[nn.Module, int, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put hooks on all modules, and count softmax operations."""
        handles = []
        for found in self.lists:
            for number, block in enumerate(found):
                handles.append(block.register_forward_pre_hook(self._entering(found, number)))
                handles.append(block.register_forward_hook(self._leaving(found)))
        for path, module in self.model.named_modules():
            handles.append(module.register_forward_hook(self._returned(path)))
        try:
            with _SoftmaxWatch(self._softmax, self.length):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def blocks(self) -> nn.ModuleList:
        """Return the list whose modules ran once each, in order; the heaviest if several did."""
        ran = [found for found in self.lists if self.order[id(found)] == list(range(len(found)))]
        if not ran:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no list of blocks that run once each, in order"
            )
        return max(ran, key=lambda found: sum(p.numel() for p in found.parameters()))

    def attention_of(self, block: str, blocks: nn.ModuleList) -> AttentionOutput | None:
        """Return the innermost module of a block that returned attention matrices."""
        inside = [path for path in self.matrices if f"{path}.".startswith(f"{block}.")]
        if not inside:
            return None
        module, place, weights = self.matrices[max(inside, key=lambda path: path.count("."))]
        if weights.triu(diagonal=1).any():
            raise UnsupportedModelError(
                f"{type(self.model).__name__} lets a token attend to the tokens after it; "
                "attention is diagnosed in causal models"
            )
        return AttentionOutput(module=module, place=place, num_heads=weights.shape[1])

    def _entering(self, found: nn.ModuleList, number: int) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            self.order[id(found)].append(number)
            self.running[id(found)] = number

        return hook

    def _leaving(self, found: nn.ModuleList) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            self.values[module] = len(output) if isinstance(output, tuple) else None
            self.running[id(found)] = None

        return hook

    def _returned(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, tuple):
                return
            for place, value in enumerate(output):
                if (
                    isinstance(value, Tensor)
                    and value.ndim == 4
                    and value.shape[-2:] == (self.length, self.length)
                ):
                    self.matrices[path] = (module, place, value)

        return hook

    def _softmax(self) -> None:
        for key, number in self.running.items():
            if number is not None:
                self.softmax_in[key].add(number)


class _SoftmaxWatch(TorchDispatchMode):
    """Tells of every softmax over the tokens of a sequence, a sink beside them or not."""

    def __init__(self, tell: Callable[[], None], length: int) -> None:
        super().__init__()
        self._tell, self._length = tell, length

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func)
        if "scaled_dot_product" in name or "flash_attention" in name:
            self._tell()
        elif "softmax" in name and isinstance(output, Tensor) and output.ndim >= 3:
            rows, columns = output.shape[-2:]
            if rows == self._length and columns in (self._length, self._length + 1):
                self._tell()
        return output


def _kinds(model: nn.Module, blocks: nn.ModuleList) -> tuple[str, ...]:
    config: Any = model.config
    types = getattr(config.get_text_config(), "layer_types", None)
    if types is not None and len(types) == len(blocks):
        return tuple(map(str, types))
    return tuple(_mixer(block) for block in blocks)


def _mixer(block: nn.Module) -> str:
    """Return the classes of a block's own parts, but for those that every block has."""
    parts = [
        type(part).__name__ for part in block.children() if any(True for _ in part.parameters())
    ]
    telling = [part for part in parts if not any(word in part for word in _EVERYWHERE)]
    return ", ".join(dict.fromkeys(telling)) or type(block).__name__
