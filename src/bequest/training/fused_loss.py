"""A causal language model's training loss without its logits as a whole: less memory, less time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bequest.errors import UnsupportedModelError
from bequest.losses.head import CausalHead, find_head, last_hidden_states
from bequest.losses.linear_cross_entropy import weighted_linear_cross_entropy
from bequest.losses.token_losses import IGNORED

_TOKENS = 8
"""Of the trial that proves that the two losses are one."""


def find_fused_head(model: PreTrainedModel) -> CausalHead | None:
    """Find the head by which a model's own loss can be computed from its last hidden states.

    It is proven on a few tokens: the model's loss must come out.

    Args:
        model: as it is loaded, not yet wrapped for training.

    Returns:
        None where the model's loss is something else, such as that of a mixture of experts which
        also counts how tokens are shared out, or where its head is no plain linear layer.
    """
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        return None
    vocabulary = model.config.get_text_config().vocab_size
    ids = (torch.arange(1, _TOKENS + 1, device=model.device) % vocabulary).unsqueeze(0)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            head = find_head(model, ids)
            if head.weight is None or head.weight is not head.module.weight:
                return None
            own = model(input_ids=ids, labels=ids, use_cache=False).loss.float()
            ours = FusedModel(model, head)(input_ids=ids, labels=ids)["loss"].float()
    except UnsupportedModelError:
        return None
    finally:
        model.train(was_training)
    precision = torch.finfo(head.weight.dtype).eps
    agrees = (own - ours).abs() <= max(8 * precision, 1e-5) * own.abs()
    return head if bool(agrees) else None


class FusedModel:
    """A model for the length of one call: it returns its training loss, and forms no logits.

    Args:
        model: as the trainer wrapped it.
        head: from `find_fused_head`.
        autocast: makes the context of a mixed precision, if there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        head: CausalHead,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model, self._head = model, head
        self._autocast = autocast

    def __call__(
        self,
        *,
        input_ids: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Any,
    ) -> dict[str, Tensor]:
        """Compute what the model's own forward computes from `labels`.

        Args:
            input_ids: token ids, (batch, length).
            labels: the same, -100 where a token has no loss.
            num_items_in_batch: what the sum of the losses is divided by; None: their number.
            **inputs: the model's other inputs.
        """
        hidden_states = last_hidden_states(self._model, self._head, input_ids, **inputs)
        # Position t predicts the token at t + 1.
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        items = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        if isinstance(items, Tensor):
            items = items.to(hidden_states.device)
        with self._autocast():
            loss = weighted_linear_cross_entropy(
                hidden_states,
                cast(Tensor, self._head.module.weight),
                targets,
                bias=cast("Tensor | None", self._head.module.bias),
                softcap=self._head.softcap,
                logit_scale=self._head.logit_scale,
                normalizer=items,
            )
        return {"loss": loss}
