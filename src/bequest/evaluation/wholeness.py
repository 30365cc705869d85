"""Whether all of a model is in its files, before any of them is read."""

from __future__ import annotations

from typing import Any

from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.verify import load_on_meta


def is_whole(
    checkpoint: Checkpoint, config: Any, model_class: str, *, trust_remote_code: bool
) -> bool:
    """Make sure that a model's files hold its weights and no others.

    Whoever loads a model without asking goes on with random weights where a file lacks some, and
    without those that have another name.

    Args:
        checkpoint: the model.
        config: its configuration.
        model_class: the class of transformers that it is to be.
        trust_remote_code: let Python files of its folder run.

    Returns:
        Whether that is sure. It is not of quantized models, whose library may want its device: they
        are judged when they are loaded.

    Raises:
        CheckpointError: weights are missing, of another shape, or left over.
    """
    if getattr(config, "quantization_config", None) is not None:
        return False
    load_on_meta(
        checkpoint.folder,
        model=f"model {checkpoint.location.name}",
        model_class=model_class,
        trust_remote_code=trust_remote_code,
    )
    return True
