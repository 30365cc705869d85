"""Cross-entropy of a linear layer whose gradients are formed in the forward pass.

Token weights that are known before the backward pass let the gradients be formed in the forward
pass, from the logits that are at hand: three matrix products in all (logits, gradient of the hidden
states, gradient of the head; two if the head is frozen), where making the logits again in the
backward pass would take four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS_OF_SOFTMAX = 64
"""Rows that the softmax works on at once on a CPU: half-precision logits exist in float32 only so
far, and fewer rows would have the threads wait for one another more often."""
_CLASSES_AT_ONCE = 2**13
"""Rows of the head's gradient made at once in half precision, before they are added in float32."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropySettings:
    """How losses are made from hidden states."""

    softcap: float | None
    """Cap on the logits, applied after the scale."""
    logit_scale: float
    """Factor of the logits."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    rows: int = 1
    """The most rows of logits that exist at one time."""
    grad_enabled: bool
    """Whether gradients were on where the function was called; in `forward` they never are."""


class WeightedLinearCrossEntropyFunction(torch.autograd.Function):
    """`sum_i w_i CE_i` over rows that all count; gradients are formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        loss_weights: Tensor,
        settings: CrossEntropySettings,
    ) -> Tensor:
        """Return the weighted sum, and keep the gradients of whatever needs one."""
        wanted = [settings.grad_enabled and need for need in ctx.needs_input_grad[:3]]
        exact = loss_weights.dtype
        # Weights of at most 1 keep half precision away from underflow; `largest` comes back in at
        # the end, where the gradient from above does.
        largest = loss_weights.abs().amax() if len(loss_weights) else loss_weights.new_ones(())
        factors = loss_weights / largest
        hidden_grad = torch.empty_like(hidden_states) if wanted[0] else None
        weight_grad = weight.new_zeros(weight.shape, dtype=exact) if wanted[1] else None
        bias_grad = weight.new_zeros(weight.shape[:1], dtype=exact) if wanted[2] else None
        total = loss_weights.new_zeros(())
        count = len(hidden_states)
        rows = math.ceil(count / max(1, math.ceil(count / settings.rows)))
        logits = hidden_states.new_empty((rows, len(weight)))
        for start in range(0, count, max(1, rows)):
            piece = slice(start, start + rows)
            hidden, factor = hidden_states[piece], factors[piece]
            slopes = torch.mm(hidden, weight.t(), out=logits[: len(hidden)])
            losses = row_losses_(
                slopes,
                labels[piece],
                settings,
                bias=bias,
                factors=factor if any(wanted) else None,
                bias_grad=bias_grad,
            )
            total += (losses * factor).sum()
            # The weights and the scale meet the narrow tensors, not the wide one.
            factor = (factor * settings.logit_scale).unsqueeze(1)
            if hidden_grad is not None:
                hidden_grad[piece] = torch.mm(slopes, weight) * factor
            if weight_grad is not None:
                _add_product(weight_grad, slopes, (hidden * factor).to(hidden.dtype))
        ctx.save_for_backward(largest, hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = (hidden_states.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total * largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has formed."""
        largest, *formed = ctx.saved_tensors
        factor = grad * largest
        grads = [
            None if own is None else _scaled(own, factor, dtype)
            for own, dtype in zip(formed, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None)


def row_losses_(
    logits: Tensor,
    labels: Tensor,
    settings: CrossEntropySettings,
    *,
    bias: Tensor | None = None,
    factors: Tensor | None = None,
    bias_grad: Tensor | None = None,
) -> Tensor:
    """Return the losses of rows of logits, in float32 or better; the logits are used up.

    Args:
        logits: What the linear layer gives, (rows, classes). With `factors`, this becomes the slope
            of each row's loss: its softmax less its target, through the soft cap; neither its
            weight nor the logit scale is in it. Without, what is left in it means nothing.
        labels: The class of each row, (rows,).
        settings: How losses are made of logits.
        bias: Added to the logits, (classes,).
        factors: The weight of each row, (rows,).
        bias_grad: Has the gradient of the bias added to it, (classes,).
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    losses = logits.new_empty(len(logits), dtype=exact)
    rows = _ROWS_OF_SOFTMAX if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), rows):
        piece = slice(start, start + rows)
        row, label = logits[piece], labels[piece]
        values = row.to(exact)  # a copy in half precision, else the row itself
        if bias is not None:
            values.add_(bias)
        if settings.logit_scale != 1.0:
            values.mul_(settings.logit_scale)
        bend = None
        if settings.softcap is not None:
            values.div_(settings.softcap).tanh_()
            bend = 1 - values * values if factors is not None else None
            values.mul_(settings.softcap)
        every = torch.arange(len(values), device=values.device)
        target = (1 - settings.label_smoothing) * values[every, label]
        if settings.label_smoothing:
            target += settings.label_smoothing * values.mean(1)
        peak = values.amax(1)
        sums = values.sub_(peak.unsqueeze(1)).exp_().sum(1)
        losses[piece] = peak + sums.log() - target
        if factors is None:
            continue
        values.mul_(sums.reciprocal().unsqueeze(1))
        values[every, label] -= 1 - settings.label_smoothing
        if settings.label_smoothing:
            values.sub_(settings.label_smoothing / values.shape[1])
        if bend is not None:
            values.mul_(bend)
        if bias_grad is not None:
            bias_grad.addmv_(values.t(), factors[piece] * settings.logit_scale)
        if values is not row:
            row.copy_(values)
    return losses


def _add_product(total: Tensor, slopes: Tensor, hidden: Tensor) -> None:
    """Add `slopes^T hidden` to a sum that may be of higher precision."""
    if total.dtype == slopes.dtype:
        total.addmm_(slopes.t(), hidden)
        return
    if total.is_cuda:
        torch.addmm(total, slopes.t(), hidden, out_dtype=torch.float32, out=total)
        return
    for start in range(0, len(total), _CLASSES_AT_ONCE):
        piece = slice(start, start + _CLASSES_AT_ONCE)
        total[piece].add_(torch.mm(slopes[:, piece].t(), hidden))


def _scaled(values: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the product in another dtype, with no whole copy in this one in between."""
    scaled = torch.empty_like(values, dtype=dtype)
    pieces = zip(values.split(_CLASSES_AT_ONCE), scaled.split(_CLASSES_AT_ONCE), strict=True)
    for source, target in pieces:
        torch.mul(source, factor, out=target)
    return scaled
