"""What FlowTrainer relies on inside TRL and transformers, private names included, and a check."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import transformers
import trl
from transformers import Trainer
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bequest.errors import InputError

METHODS: Mapping[tuple[type, str], tuple[str, ...]] = {
    (SFTTrainer, "_prepare_dataset"): (
        "dataset",
        "processing_class",
        "args",
        "packing",
        "formatting_func",
        "dataset_name",
    ),
    (SFTTrainer, "_set_signature_columns_if_needed"): (),
    (SFTTrainer, "compute_loss"): ("model", "inputs", "return_outputs", "num_items_in_batch"),
    (SFTTrainer, "training_step"): ("args", "kwargs"),
    (SFTTrainer, "_save_checkpoint"): ("model", "trial"),
    (Trainer, "_load_from_checkpoint"): ("resume_from_checkpoint", "model"),
    (Trainer, "_get_output_dir"): ("trial",),
    (Trainer, "_get_num_items_in_batch"): ("batch_samples", "device"),
    (Trainer, "get_tp_size"): (),
    (DataCollatorForLanguageModeling, "torch_call"): ("examples",),
}
"""Methods that are overridden or called, with the arguments they must take, in this order."""

NAMES: Mapping[type, tuple[str, ...]] = {
    SFTTrainer: (
        "_signature_columns",
        "data_collator",
        "train_dataset",
        "fused_lm_head",
        "_metrics",
    ),
    Trainer: (
        "model_accepts_loss_kwargs",
        "num_items_in_batch",
        "current_gradient_accumulation_steps",
        "_set_sync_gradients",
    ),
    DataCollatorForLanguageModeling: ("padding_free",),
}
"""Attributes and arguments that the source of a class must mention."""


def missing_hooks(
    methods: Mapping[tuple[type, str], tuple[str, ...]] = METHODS,
    names: Mapping[type, tuple[str, ...]] = NAMES,
) -> list[str]:
    """Say which hooks the installed TRL and transformers do not have."""
    missing = []
    for (owner, name), arguments in methods.items():
        method: Any = vars(owner).get(name)
        taken = tuple(inspect.signature(method).parameters) if method is not None else ()
        if method is None or taken != ("self", *arguments):
            missing.append(f"{owner.__name__}.{name}({', '.join(arguments)})")
    for owner, attributes in names.items():
        source = inspect.getsource(owner)
        missing += [f"{owner.__name__}: {name}" for name in attributes if name not in source]
    return missing


def check_hooks() -> None:
    """Refuse versions of TRL and transformers that FlowTrainer does not know its way in.

    Raises:
        InputError: A hook is missing or takes other arguments.
    """
    missing = missing_hooks()
    if missing:
        raise InputError(
            f"trl {trl.__version__} with transformers {transformers.__version__} lacks what "
            f"FlowTrainer overrides ({'; '.join(missing)}); install 'trl>=1.16,<1.17'"
        )
