"""What one animal of the zoo is, and how its weights are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One architecture with one choice of settings."""

    name: str
    """What the tests call it."""
    model_type: str
    """transformers' `model_type`."""
    settings: Mapping[str, Any]
    """The configuration's fields."""
    blocks: str
    """What stands before a block's number in the checkpoint's keys, e.g. `model.layers.`."""
    chosen: tuple[int, ...]
    """A selection of blocks that is not contiguous."""
    dtype: str = "float32"
    """Data type of the weights, by its name in torch."""
    hub_config: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Turns config.json as transformers writes it today into one as hubs hold it."""
    hub_state: Callable[[State], State] | None = None
    """Turns the tensors as transformers writes them today into those that hubs hold."""
    disposable: tuple[str, ...] = field(default=())
    """Endings of keys that no model reads: an output may lack them."""

    def config(self) -> PretrainedConfig:
        """Build the configuration."""
        return AutoConfig.for_model(self.model_type, **self.settings)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return int(self.config().num_hidden_layers)

    @property
    def half(self) -> tuple[int, ...]:
        """The first half of the blocks."""
        return tuple(range(self.depth // 2))

    def build(self, seed: int = 0) -> PreTrainedModel:
        """Build the model, every weight and persistent buffer drawn anew from `seed`."""
        model = AutoModelForCausalLM.from_config(self.config())
        draw_weights(model, seed)
        model = model.to(getattr(torch, self.dtype)).eval()
        for name, parameter in chain(model.named_parameters(), model.named_buffers()):
            if name.endswith("e_score_correction_bias"):  # float32 on the hub, whatever the rest is
                parameter.data = parameter.data.float()
        return model


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Make every tensor differ from every other, so that a wrong block or a fresh one is seen.

    Vectors (norms, biases) move away from the ones and zeros that all blocks would share; matrices
    get a variance that keeps activations near one. Each tensor has a generator of its own.
    """
    persistent = set(model.state_dict())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name not in persistent or not tensor.is_floating_point():
            continue
        generator = torch.Generator().manual_seed(seed * 7919 + zlib.crc32(name.encode()))
        noise = torch.randn(tensor.shape, generator=generator)
        with torch.no_grad():
            if tensor.ndim <= 1:
                tensor.add_(0.3 * noise)
            else:
                tensor.copy_(noise * 1.5 / min(tensor.shape[-2:]) ** 0.5)
