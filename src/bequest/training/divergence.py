"""Training that ended with numbers that are none: found before anything is published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from bequest.errors import BequestError
from bequest.training.held_out_losses import HeldOutLosses


class DivergedError(BequestError):
    """A run ended with weights or a loss that are not finite."""


def check_losses(losses: Mapping[str, HeldOutLosses], published: str) -> None:
    """Refuse to go on with weights that give no loss.

    Args:
        losses: of the trained weights and of each average.
        published: which of them are to be published.

    Raises:
        DivergedError: their loss is not finite.
    """
    loss = losses[published].loss
    if not math.isfinite(loss):
        raise _diverged(f"the held-out loss of its {published} weights is {loss}")


def check_weights_of(folder: Path) -> None:
    """Refuse a folder's weights that are not finite, reading one tensor at a time.

    Raises:
        DivergedError: there are such.
        OSError: reading failed.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                value = tensors.get_tensor(name)
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise _diverged(f"{name} holds values that are not finite")


def _diverged(what: str) -> DivergedError:
    return DivergedError(
        f"the run diverged: {what}, and nothing was published; lower training.learning_rate and "
        "pass --overwrite to throw the run away"
    )
