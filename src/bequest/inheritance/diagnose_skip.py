"""The loss of a model without one of its blocks, for each block in turn.

The blocks before the one that is left out compute what they always do. So their result is taken
from one whole pass, and only the blocks behind it run: half the work of leaving out each in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bequest.errors import UnsupportedModelError
from bequest.inheritance.diagnose_anatomy import Anatomy
from bequest.inheritance.diagnose_watch import hidden_input, watching_blocks
from bequest.losses.head import CausalHead, last_hidden_states

_LOGITS_AT_ONCE = 16 << 20


def leave_one_out(
    model: nn.Module, anatomy: Anatomy, head: CausalHead, input_ids: Tensor
) -> NDArray[np.float32]:
    """Return each sequence's mean loss, in nats a token, with all blocks and without each.

    Args:
        model: the model of `anatomy`, in evaluation mode.
        anatomy: from `find_anatomy`.
        head: from `find_head`.
        input_ids: sequences of one length, count x length, on the model's device.

    Returns:
        (1 + blocks) x sequences: first the whole model, then without block 0, 1 and so on.
    """
    inputs: dict[int, Tensor] = {}

    def see_block(block: int, before: Tensor, _after: Tensor) -> None:
        inputs[block] = before

    with torch.no_grad():
        with watching_blocks(anatomy, see_block):
            losses = [_losses(model, head, input_ids)]
        for block in range(len(anatomy.blocks)):
            with _replaced(anatomy, range(block + 1), inputs.pop(block)):
                losses.append(_losses(model, head, input_ids))
    return np.stack(losses)


def check_leave_one_out(
    model: nn.Module, anatomy: Anatomy, head: CausalHead, input_ids: Tensor
) -> None:
    """Hold the short way to the plain one, in which all other blocks run, at one block.

    Raises:
        UnsupportedModelError: they differ: the blocks hand one another more than hidden states.
    """
    block = len(anatomy.blocks) // 2
    name = type(model).__name__
    try:
        short = leave_one_out(model, anatomy, head, input_ids)[1 + block]
        with torch.no_grad(), _replaced(anatomy, range(block, block + 1), None):
            plain = _losses(model, head, input_ids)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UnsupportedModelError(
            f"{name} does not run without one of its blocks ({type(error).__name__}: {reason}); "
            "leave out leave_one_out"
        ) from error
    if not np.allclose(short, plain, rtol=2e-3, atol=1e-4):
        raise UnsupportedModelError(
            f"{name}'s blocks hand one another more than hidden states, so its loss without a "
            "block cannot be computed from cached prefixes; leave out leave_one_out"
        )


class _StandIn(nn.Module):
    """Stands in a block's place: answers to its attributes, and passes hidden states on."""

    def __init__(self, block: nn.Module, hidden_states: Tensor | None, values: int | None) -> None:
        super().__init__()
        # Past torch's registration: as a submodule the block would be found twice.
        self.__dict__.update(block=block, given=hidden_states, values=values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the given hidden states, or those that came in, as the block would."""
        given, values = self.__dict__["given"], self.__dict__["values"]
        passed = hidden_input(args, kwargs) if given is None else given.clone()
        return passed if values is None else (passed, *[None] * (values - 1))


@contextmanager
def _replaced(anatomy: Anatomy, numbers: range, hidden_states: Tensor | None) -> Iterator[None]:
    """Put stand-ins in the place of some blocks, and the blocks back."""
    own = {number: anatomy.blocks[number] for number in numbers}
    try:
        for number, block in own.items():
            anatomy.blocks[number] = _StandIn(block, hidden_states, anatomy.values[number])
        yield
    finally:
        for number, block in own.items():
            anatomy.blocks[number] = block


def _losses(model: nn.Module, head: CausalHead, input_ids: Tensor) -> NDArray[np.float32]:
    """Return each sequence's mean loss over all tokens but its first."""
    hidden = last_hidden_states(model, head, input_ids)[:, :-1]
    labels = input_ids[:, 1:].to(hidden.device)
    rows = max(1, _LOGITS_AT_ONCE // head.num_classes)
    pieces = [
        head.losses(some, wanted)
        for some, wanted in zip(
            hidden.flatten(0, 1).split(rows), labels.flatten().split(rows), strict=True
        )
    ]
    losses = torch.cat(pieces).double().reshape(labels.shape).mean(dim=-1)
    return losses.cpu().numpy().astype(np.float32)
