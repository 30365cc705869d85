"""The `training` mapping of a pre-training run: TrainingArguments, for blocks of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from bequest.errors import InputError
from bequest.training.training_arguments import read_training

_EACH = "evaluations give each token's loss; leave it out"
_BLOCKS = "the blocks have what the model reads; leave it out"
_RESERVED = {
    "output_dir": "set out or run_dir",
    "resume_from_checkpoint": "run the same command again, and it goes on by itself",
    "save_only_model": "a run without its optimizer cannot be resumed; leave it out",
    "enable_jit_checkpoint": "what it stops would count as finished; kill the run, it goes on",
    "ignore_data_skip": "a resumed run would read text twice; leave it out",
    "auto_find_batch_size": "the batch decides the run's numbers; set per_device_train_batch_size",
    "remove_unused_columns": _BLOCKS,
    "label_names": _BLOCKS,
    "prediction_loss_only": _EACH,
    "batch_eval_metrics": _EACH,
    "eval_do_concat_batches": _EACH,
    "eval_use_gather_object": _EACH,
    "include_for_metrics": _EACH,
    "disable_tqdm": "pass --quiet",
}
"""Arguments of the trainer that are not the user's, and what to do instead."""
_DEFAULTS: dict[str, Any] = {
    "learning_rate": 6e-4,
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "logging_first_step": True,
    # The filter would log an earlier loss where there is none any more.
    "logging_nan_inf_filter": False,
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "report_to": "none",
}
"""As GPT-2 is trained since nanoGPT (and in the papers), where TrainingArguments differ."""


def read_settings(training: Mapping[str, Any]) -> dict[str, Any]:
    """Check a mapping of TrainingArguments' fields, and add our defaults.

    Args:
        training: the mapping, as the user gave it.

    Raises:
        InputError: there is no such field, the run sets it itself, or its value would spoil the run.
    """
    settings = read_training(TrainingArguments, training, defaults=_DEFAULTS, reserved=_RESERVED)
    if settings.get("train_sampling_strategy") == "group_by_length":
        # It would also shuffle what is measured, and losses be taken for other documents'.
        raise InputError(
            "training.train_sampling_strategy is 'group_by_length', but all blocks are of one "
            "length; leave it out"
        )
    settings.setdefault(
        "per_device_eval_batch_size", settings.get("per_device_train_batch_size", 8)
    )
    return settings | {"remove_unused_columns": False, "label_names": ["labels"]}
