"""The losses of the model that training starts from, taken inside a trainer before it wraps it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer

from bequest.errors import InputError
from bequest.losses.token_losses import token_losses
from bequest.training.response_losses import response_losses, row_hashes
from bequest.weighting.score_file import ScoreTable

_BASE_KEPT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Ways of starting a LoRA adapter that leave the weights under it as they were."""

Rows = list[Any]
"""An int32 array for each sample."""


def token_rows(dataset: Dataset) -> tuple[Rows, Rows]:
    """Return the token ids and the labels of a tokenized data set, an array for each row."""
    found: tuple[Rows, Rows] = ([], [])
    columns = dataset.select_columns(["input_ids", "labels"]).with_format("arrow")
    for table in columns.iter(batch_size=1000):
        for rows, name in zip(found, ("input_ids", "labels"), strict=True):
            rows += [np.asarray(row.values, dtype=np.int32) for row in table[name]]
    return found


def starting_scores(trainer: Trainer, input_ids: Rows, labels: Rows) -> ScoreTable:
    """Score samples with the trainer's own model as it was before training, adapters off.

    Call it in every process, after the trainer was made and before it trains.

    Args:
        trainer: Its model has not been wrapped yet.
        input_ids: The token ids of each sample.
        labels: Its labels, unshifted, -100 where nothing is predicted.

    Returns:
        The losses of samples and tokens; the weights in it are all 1.

    Raises:
        InputError: If the model in memory is not the pre-trained one, or not all of it.
    """
    with _before_training(trainer):
        losses = token_losses(trainer.model, input_ids, labels, progress=True)
    wanted, means = response_losses(losses, labels)
    return ScoreTable(
        index=np.arange(len(wanted), dtype=np.int64),
        loss=means,
        num_tokens=np.array([len(own) for own in wanted], dtype=np.int32),
        row_hash=row_hashes(input_ids, labels),
        weight=np.ones(len(wanted), dtype=np.float32),
        token_losses=wanted,
        metadata={},
    )


def changed_base(model: PeftModel) -> str | None:
    """Say what makes a model with its adapters off another than the pre-trained one, if it is."""
    for config in model.peft_config.values():
        start = getattr(config, "init_lora_weights", None)
        if start not in _BASE_KEPT:
            return f"init_lora_weights={start!r} changes the weights under the adapter"
    return None


def _before_training(trainer: Trainer) -> AbstractContextManager[Any]:
    """Turn adapters off, where that gives the pre-trained model back; refuse where it does not."""
    model: Any = trainer.model
    state = trainer.accelerator.state
    plugin = getattr(state, "fsdp_plugin", None)
    if plugin is not None and plugin.cpu_ram_efficient_loading:
        raise _refusal(
            "with FSDP's cpu_ram_efficient_loading only the first process has the weights"
        )
    if state.distributed_type == DistributedType.DEEPSPEED and any(
        parameter.numel() == 0 for parameter in model.parameters()
    ):
        raise _refusal("DeepSpeed ZeRO-3 has spread the weights over the processes")
    if not isinstance(model, PeftModel):
        return nullcontext()
    changed = changed_base(model)
    if changed is not None:
        raise _refusal(changed)
    off: AbstractContextManager[Any] = model.disable_adapter()
    return off


def _refusal(reason: str) -> InputError:
    return InputError(
        f"scores is not given, and this trainer cannot score its train_dataset itself: {reason}; "
        "run `bequest score` first and pass its file as scores"
    )
