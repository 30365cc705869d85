"""The head of a causal language model: found by watching the model run, never guessed by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bequest.errors import UnsupportedModelError
from bequest.losses.formed_gradients import CrossEntropySettings, row_losses_


@dataclass(frozen=True, kw_only=True)
class CausalHead:
    """What turns the last hidden states into logits: `softcap(logit_scale * (W h + bias))`."""

    module: nn.Module
    """The output embedding, a linear layer as a rule."""
    weight: Tensor | None
    """Its weight, classes x hidden, gathered if it is sharded; None if it is no plain linear layer
    (quantized, or with an adapter on it) and can only be called."""
    bias: Tensor | None
    """Its bias, one per class."""
    logit_scale: float
    """What the model multiplies the logits by (Cohere, Granite, Falcon-H1); 1.0 for most."""
    num_classes: int
    """The number of tokens it can predict."""
    softcap: float | None
    """`c` of `c * tanh(logits / c)` (Gemma), applied after the scale; None for most."""

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Return the logits, tokens x classes, of hidden states, tokens x hidden, in float32.

        The product is made in the model's own dtype. Float64 stays float64.
        """
        raw = self._product(hidden_states)
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32)) * self.logit_scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def losses(self, hidden_states: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each label, in float32, in less memory than by the logits."""
        settings = CrossEntropySettings(
            softcap=self.softcap, logit_scale=self.logit_scale, grad_enabled=False
        )
        return row_losses_(self._product(hidden_states), labels, settings)

    def _product(self, hidden_states: Tensor) -> Tensor:
        if self.weight is None:
            return torch.as_tensor(self.module(hidden_states))
        return F.linear(hidden_states, self.weight, self.bias)


class NonFiniteLogitsError(UnsupportedModelError):
    """On what it was given, the model's logits are no numbers."""


def find_head(model: nn.Module, input_ids: Tensor) -> CausalHead:
    """Find a model's head by running the model on a few tokens, and prove that it is the head.

    What the head is given and what comes out of it are recorded; a scale is measured between that
    and the model's logits, a soft cap is read from the configuration, and the logits made from
    these are compared with the model's own.

    Args:
        model: A causal language model of transformers, possibly wrapped (PEFT, DDP, FSDP2), in
            evaluation mode; gradients should be off.
        input_ids: A few tokens, 1 x length, on the model's device.

    Raises:
        NonFiniteLogitsError: If its logits are no numbers.
        UnsupportedModelError: If the model has no head to find, or the logits differ.
    """
    module = _output_embeddings(model)
    with _watch(module) as calls:
        output = model(input_ids=input_ids, use_cache=False)
    logits = output[0] if isinstance(output, tuple) else output.logits
    if logits.isnan().any():
        raise NonFiniteLogitsError(
            f"{type(model).__name__} gives logits that are not finite, so it has no losses; run it in "
            "another dtype, or look for weights that are not finite"
        )
    hidden_states, raw = _only_call(model, calls, input_ids.shape)
    hidden_states, raw, logits = (
        hidden_states.flatten(0, 1),
        raw.flatten(0, 1),
        logits.flatten(0, 1),
    )
    weight, bias = _plain_parameters(module)
    config = _text_config(model)
    gap = float("inf")
    # A cap that the configuration names comes first: logits far below it hardly show it.
    for softcap in (*_softcaps(config), None):
        head = CausalHead(
            module=module,
            weight=weight,
            bias=bias,
            num_classes=logits.shape[-1],
            logit_scale=_exact_scale(_measure_scale(raw, logits, softcap), config),
            softcap=softcap,
        )
        gap = (head.logits(hidden_states) - logits).abs().max().item()
        if gap <= _tolerance(raw) * logits.abs().max().item():
            return head
    raise UnsupportedModelError(
        f"{type(model).__name__} does something between its head and its logits that bequest does "
        f"not know (they differ by up to {gap:.3g}); score it with a model class that applies only "
        "a linear layer, a scale and a soft cap"
    )


def last_hidden_states(
    model: nn.Module, head: CausalHead, input_ids: Tensor, **inputs: Any
) -> Tensor:
    """Run a model and return what it hands to its head, batch x length x hidden.

    The model runs whole, so that wrappers, final projections and scales before the head are all
    as they should be, but the head itself is given one single position.
    """
    with _watch(head.module, only_one_position=True) as calls:
        model(input_ids=input_ids, use_cache=False, **inputs)
    return _only_call(model, calls, input_ids.shape)[0]


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside wrappers that matter only for training.

    DistributedDataParallel would synchronise buffers at every forward, which processes with
    different numbers of batches would wait for for ever; a compiled model would be compiled anew
    for every shape.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model


@contextmanager
def _watch(
    module: nn.Module, *, only_one_position: bool = False
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the input and output of every call of a module."""
    inputs: list[Tensor] = []
    calls: list[tuple[Tensor, Tensor]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        inputs.append(hidden_states)
        return ((hidden_states[:1, :1],), {}) if only_one_position else None

    def after(_: nn.Module, __: Any, output: Tensor) -> None:
        calls.append((inputs[-1], output))

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _only_call(
    model: nn.Module, calls: list[tuple[Tensor, Tensor]], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    if len(calls) != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} calls its output embedding {len(calls)} times for one batch; "
            "bequest computes losses of models that call it once"
        )
    hidden_states, raw = calls[0]
    if hidden_states.shape[:-1] != shape:
        raise UnsupportedModelError(
            f"{type(model).__name__} gives its output embedding a tensor of shape "
            f"{tuple(hidden_states.shape)} for tokens of shape {tuple(shape)}; bequest computes "
            "losses of models that give it batch x length x hidden"
        )
    return hidden_states, raw


def _output_embeddings(model: nn.Module) -> nn.Module:
    get = getattr(model, "get_output_embeddings", None)
    module = get() if callable(get) else None
    if not isinstance(module, nn.Module):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no output embedding (`get_output_embeddings()` gives "
            f"{module!r}); pass a causal language model of transformers"
        )
    return module


def _plain_parameters(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The weight and bias of a plain linear layer, gathered if they are sharded."""
    weight = getattr(module, "weight", None)
    if type(module).forward is not nn.Linear.forward or not isinstance(weight, Tensor):
        return None, None
    return (
        (_gathered(weight), _gathered(module.bias)) if weight.is_floating_point() else (None, None)
    )


def _gathered(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _text_config(model: Any) -> dict[str, Any]:
    return dict(model.config.get_text_config().to_dict())


def _numbers(config: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in config.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }


def _softcaps(config: dict[str, Any]) -> list[float]:
    """Every number of the configuration whose name speaks of a cap on logits."""
    numbers = _numbers(config).items()
    return [v for name, v in numbers if "logit" in name and "cap" in name and "attn" not in name]


def _exact_scale(measured: float, config: dict[str, Any]) -> float:
    """The number that was measured, as exactly as the configuration states it or its inverse."""
    stated = [1.0, *(s for v in _numbers(config).values() for s in (v, 1.0 / v))]
    nearest = min(stated, key=lambda s: abs(s - measured))
    return nearest if abs(nearest - measured) <= 1e-3 * abs(measured) else measured


def _measure_scale(raw: Tensor, logits: Tensor, softcap: float | None) -> float:
    """The factor between the head's output and the logits before the cap, by least squares."""
    raw, logits = raw.double(), logits.double()
    if softcap is not None:
        # A logit at the cap says nothing; keep it finite, the comparison will judge the rest.
        logits = torch.atanh((logits / softcap).clamp(-0.999, 0.999)) * softcap
        raw = torch.where(logits.abs() < 0.99 * softcap, raw, 0.0)
    power = (raw * raw).sum().item()
    return (raw * logits).sum().item() / power if power > 0 else 1.0


def _tolerance(raw: Tensor) -> float:
    """Largest difference allowed between two ways to make the logits, relative to the largest."""
    return max(2 * torch.finfo(raw.dtype).eps, 1e-5)
