"""The weighted cross-entropy of a linear layer's output, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from bequest.errors import InputError
from bequest.losses.formed_gradients import CrossEntropySettings, WeightedLinearCrossEntropyFunction

_LOGITS_BYTES = 2**26
"""Larger pieces of logits are hardly faster; smaller ones go through the head and its gradient too
often."""


def weighted_linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    loss_weights: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
    label_smoothing: float = 0.0,
    *,
    normalizer: float | Tensor = 1.0,
    ignore_index: int = -100,
    logits_bytes: int = _LOGITS_BYTES,
) -> Tensor:
    """Return `sum_i loss_weights_i * CE_i / normalizer`, differentiable, in bounded memory.

    `CE_i` is the cross-entropy of `softcap * tanh(logit_scale * (W h_i + bias) / softcap)` against
    `labels_i`. The reduction is this sum and no other: for a mean pass the number of tokens, or the
    sum of the weights, of the whole batch (all accumulation steps, all processes) as `normalizer`.

    Products run in the dtype of the inputs, or of a surrounding autocast; softmax, losses and the
    sums over tokens in float32 or better. Tokens that are ignored or weigh 0 cost nothing, and what
    their hidden states hold (NaN, say) does not matter. The gradients are formed in the forward
    pass, so they cannot be differentiated again.

    Args:
        hidden_states: What the head is given, (..., hidden).
        weight: The head, (classes, hidden), of the same dtype; not a DTensor.
        labels: The class to predict at each position, (...), int64. They are not shifted here.
        loss_weights: The weight of each position's loss, (...), without gradient; None means 1.
        bias: The head's bias, (classes,).
        softcap: Cap on the logits (Gemma 2), applied after the scale; None for no cap.
        logit_scale: Factor of the logits (Cohere: `logit_scale`, Granite: `1 / logits_scaling`);
            None for 1.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        normalizer: What the weighted sum is divided by, positive.
        ignore_index: The label of positions that have no loss.
        logits_bytes: The most bytes of logits that exist at one time (one row at least).

    Returns:
        A scalar, float32 (float64 for float64 inputs).

    Raises:
        InputError: If shapes, dtypes or values do not fit.
    """
    hidden_states, weight, bias = _autocast(hidden_states, weight, bias)
    _check(hidden_states, weight, labels, loss_weights, bias, softcap, label_smoothing, normalizer)
    exact = torch.promote_types(hidden_states.dtype, torch.float32)
    flat = hidden_states.reshape(-1, hidden_states.shape[-1])
    flat_labels = labels.reshape(-1)
    weights = (
        torch.ones(labels.shape, device=labels.device) if loss_weights is None else loss_weights
    )
    weights = weights.detach().reshape(-1).to(flat.device, exact) / normalizer
    kept = ((flat_labels != ignore_index) & (weights != 0)).nonzero().squeeze(1)
    if len(kept) < len(flat):
        flat = flat.index_select(0, kept)
        flat_labels, weights = flat_labels[kept], weights[kept]
    _check_labels(flat_labels, weight.shape[0], ignore_index)
    settings = CrossEntropySettings(
        softcap=softcap,
        logit_scale=1.0 if logit_scale is None else float(logit_scale),
        label_smoothing=label_smoothing,
        rows=max(1, logits_bytes // (weight.shape[0] * weight.itemsize)),
        grad_enabled=torch.is_grad_enabled(),
    )
    with torch.autocast(flat.device.type, enabled=False):
        loss: Tensor = WeightedLinearCrossEntropyFunction.apply(
            flat, weight, bias, flat_labels, weights, settings
        )
    return loss


def _autocast(
    hidden_states: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as a linear layer would be cast under autocast."""
    device = hidden_states.device.type
    if not torch.is_autocast_enabled(device):
        return hidden_states, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return hidden_states.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)


def _check(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    loss_weights: Tensor | None,
    bias: Tensor | None,
    softcap: float | None,
    label_smoothing: float,
    normalizer: float | Tensor,
) -> None:
    tensors = {"hidden_states": hidden_states, "weight": weight, "bias": bias}
    for name, tensor in tensors.items():
        if hasattr(tensor, "full_tensor"):
            raise InputError(
                f"{name} is a DTensor, of which each process has a piece; pass "
                f"{name}.full_tensor(), or call this where FSDP has gathered it"
            )
    if weight.dim() != 2 or hidden_states.shape[-1] != weight.shape[1]:
        raise InputError(
            f"weight has the shape {tuple(weight.shape)} and hidden_states "
            f"{tuple(hidden_states.shape)}; the last dimensions must be equal, (classes, hidden) "
            "and (..., hidden)"
        )
    if not hidden_states.is_floating_point() or hidden_states.dtype != weight.dtype:
        raise InputError(
            f"weight is {weight.dtype} and hidden_states {hidden_states.dtype}; cast one of them "
            "or use autocast"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"bias has the shape {tuple(bias.shape)}; it must have one element for each of the "
            f"{weight.shape[0]} classes"
        )
    for name, tensor in {"labels": labels, "loss_weights": loss_weights}.items():
        if tensor is not None and tensor.shape != hidden_states.shape[:-1]:
            raise InputError(
                f"{name} has the shape {tuple(tensor.shape)}; it must be that of the positions, "
                f"{tuple(hidden_states.shape[:-1])}"
            )
    if labels.dtype != torch.int64:
        raise InputError(f"labels are {labels.dtype}; they must be int64 class numbers")
    if loss_weights is not None and loss_weights.requires_grad:
        raise InputError("loss_weights require a gradient, which they have none of; detach them")
    if softcap is not None and not softcap > 0:
        raise InputError(f"softcap is {softcap}; it must be positive, or None for no cap")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing is {label_smoothing}; it must be in [0, 1)")
    if not isinstance(normalizer, Tensor) and not normalizer > 0:
        raise InputError(f"normalizer is {normalizer}; it must be positive")


def _check_labels(labels: Tensor, classes: int, ignore_index: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise InputError(
            f"labels hold {wrong}; they must be below the number of classes, {classes}, or "
            f"{ignore_index} to be ignored"
        )
