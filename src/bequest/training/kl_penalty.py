"""KL to another model, such as the start: what is said of each predicted token, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from bequest.errors import UnsupportedModelError
from bequest.losses.head import CausalHead, find_head, last_hidden_states
from bequest.losses.token_losses import IGNORED
from bequest.training.start_weights import StartWeights

_CHUNK = 1024
"""Tokens whose logits, of both models, are in memory at once."""
_NOT_READ = ("labels", "use_cache", "output_router_logits")


class KlPenalty:
    """Computes `sum_t KL(p*_t || p_t)` over a batch's response tokens, in nats, with gradients.

    p* is the model with its adapters off, or with the weights that it started from. Never are the
    logits of more than a chunk of tokens in memory.

    Args:
        model: The model before it is wrapped.
        temperature: T: both models' logits are divided by it, and the sum is multiplied by T^2.

    Raises:
        UnsupportedModelError: Its logits are not made from its last hidden states by a linear
            layer, a scale and a soft cap.
    """

    def __init__(self, model: Any, *, temperature: float = 1.0) -> None:
        self._temperature = temperature
        was_training = model.training
        model.eval()
        with torch.no_grad():
            tokens = torch.arange(4, device=next(model.parameters()).device)[None]
            self._head = find_head(model, tokens)
            with self.watched(model) as seen:
                given = last_hidden_states(model, self._head, tokens)
        model.train(was_training)
        if len(seen) != 1 or not torch.equal(seen[0], given):
            raise UnsupportedModelError(
                f"{type(model).__name__} changes its last hidden states on their way to its head, "
                "and the KL would be that of other logits; leave kl and distillation out"
            )

    @contextmanager
    def watched(self, model: Any) -> Iterator[list[Tensor]]:
        """Collect the last hidden states, batch x length x hidden, of each run of the model."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            seen.append(output.last_hidden_state)

        handle = _backbone(model).register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()

    @torch.no_grad()
    def at_start(
        self, model: Any, start: StartWeights | None, inputs: dict[str, Any]
    ) -> tuple[CausalHead, Tensor]:
        """Return the head of the start, and what the start hands to it at predicted positions.

        Call it before the model's own run of the batch: weights that a graph waits for must not
        change.

        Args:
            model: The model that is trained, not in DistributedDataParallel.
            start: Its start; None for adapters.
            inputs: The batch, with labels.
        """
        given = {name: value for name, value in inputs.items() if name not in _NOT_READ}
        with _at_start(model, start):
            model.eval()
            hidden_states = last_hidden_states(model, self._head, **given)
            model.train()
            head = self._now()
        module: Any = self._head.module
        if start is not None and head.weight is module.weight:
            # Not gathered, so it is the live weight, which is the trained one again.
            own = start.of(model)
            if module.weight in own:
                head = replace(head, weight=own[module.weight])
            if module.bias in own:
                head = replace(head, bias=own[module.bias])
        return head, hidden_states[:, :-1][_predicted(inputs)]

    def total(
        self, first: tuple[CausalHead, Tensor], inputs: dict[str, Any], hidden_states: Tensor
    ) -> Tensor:
        """Return the sum over the batch.

        Args:
            first: What `at_start` returned, or another model's head and what it hands to it.
            inputs: The batch, with labels.
            hidden_states: What the model's own run of the batch gave, with its graph.
        """
        head, (first_head, first_rows) = self._now(), first
        rows = hidden_states[:, :-1][_predicted(inputs)]
        total = rows.new_zeros((), dtype=torch.float32)
        for own, other in zip(rows.split(_CHUNK), first_rows.split(_CHUNK), strict=True):
            total = total + checkpoint(
                _kl, head, first_head, own, other, self._temperature, use_reentrant=False
            )
        return total

    def _now(self) -> CausalHead:
        """The head with its weights of this moment, gathered if they are sharded."""
        if self._head.weight is None:
            return self._head
        module: Any = self._head.module
        return replace(self._head, weight=_whole(module.weight), bias=_whole(module.bias))


def _kl(
    head: CausalHead, first_head: CausalHead, now: Tensor, first: Tensor, temperature: float
) -> Tensor:
    log_p = torch.log_softmax(head.logits(now) / temperature, dim=-1)
    with torch.no_grad():
        first_log_p = torch.log_softmax(first_head.logits(first) / temperature, dim=-1)
    return (first_log_p.exp() * (first_log_p - log_p)).sum() * temperature**2


def _predicted(inputs: dict[str, Any]) -> Tensor:
    predicted: Tensor = inputs["labels"][:, 1:] != IGNORED
    return predicted


def _at_start(model: Any, start: StartWeights | None) -> AbstractContextManager[Any]:
    if start is not None:
        return start.swapped_in(model)
    off: AbstractContextManager[Any] = model.disable_adapter()
    return off


def _backbone(model: Any) -> Any:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.base_model


def _whole(tensor: Any) -> Any:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
