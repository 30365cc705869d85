"""What FlowTrainer is given, checked: what would lose weights is refused before a step is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from peft import PeftModel
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bequest.errors import InputError
from bequest.training.method import MethodConfig, check_weighting
from bequest.training.row_weights import Weighing
from bequest.weighting.given import checked_weights

if TYPE_CHECKING:
    from bequest.training.flow_trainer import FlowTrainer

WEIGHT = "weight"
"""The column of a user's data set that holds a weight for each sample."""


def method_of(
    method: MethodConfig | None,
    scheme: str | None,
    temperature: float | str | None,
    normalizer: str | None,
) -> MethodConfig:
    """Return what is asked for, in whichever of the two ways it was."""
    given = {"scheme": scheme, "temperature": temperature, "normalizer": normalizer}
    named = [name for name, value in given.items() if value is not None]
    if method is not None and named:
        raise InputError(f"method is given, and {' and '.join(named)}, too; say it in the method")
    if method is not None:
        return method
    normalizer = "tokens" if normalizer is None else normalizer
    # First as it was given, so that a refusal says what it got.
    check_weighting(scheme, temperature, normalizer, has_scores=False)
    written = None if temperature is None else str(temperature)
    return MethodConfig(scheme=scheme, temperature=written, normalizer=normalizer)


def weighing_of(method: MethodConfig, scores: Any) -> Weighing:
    """Join a method with the scores, wherever they were given."""
    if method.scores is not None and scores is not None:
        raise InputError("scores is given in the method and as an argument; leave one out")
    scores = method.scores if scores is None else scores
    return Weighing.of(scores, method.scheme, method.temperature, method.normalizer)


def check_column(dataset: Dataset, weighing: Weighing) -> None:
    """Refuse a column of weights that are none, or that something else contradicts."""
    if weighing.scores is not None or (weighing.scheme, weighing.temperature) != (None, None):
        raise InputError(
            f"train_dataset has a column {WEIGHT!r}, which is used as it is: leave scores, scheme "
            "and temperature out, or remove the column"
        )
    checked_weights(f"train_dataset[{WEIGHT!r}]", dataset[WEIGHT])


def with_weight_column(dataset: Dataset, weights: np.ndarray[Any, Any]) -> Dataset:
    """Give a data set its weights as a column."""
    if len(weights) != len(dataset):
        raise InputError(
            f"scores holds {len(weights)} weights, but train_dataset has {len(dataset)} rows"
        )
    return dataset.add_column(WEIGHT, weights)


def check_collator(collator: Any) -> None:
    """Refuse a collator that would lose the weights."""
    if collator is not None and not isinstance(collator, DataCollatorForLanguageModeling):
        raise InputError(
            f"data_collator is a {type(collator).__name__}, which does not know of weights; leave "
            "it out or give TRL's DataCollatorForLanguageModeling"
        )


def check_args(args: SFTConfig) -> None:
    """Refuse what would lose the weights, before anything is tokenized."""
    if args.loss_type != "nll":
        raise InputError(
            f"args.loss_type is {args.loss_type!r}; leave it 'nll' and give FlowTrainer the scheme"
        )
    if args.label_smoothing_factor:
        raise InputError(
            f"args.label_smoothing_factor is {args.label_smoothing_factor}, which SFTTrainer takes "
            "from another forward pass, without weights; set it to 0"
        )
    if args.packing and args.max_length is None:
        raise InputError("args.packing needs args.max_length, got None")
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise InputError(
            "args.average_tokens_across_devices is False, which makes the loss depend on the number "
            "of processes; set it to True"
        )


def check_trainer(trainer: FlowTrainer) -> None:
    """Refuse what can be seen only when SFTTrainer has been made."""
    if trainer._unprepared is not None:
        raise InputError(
            "train_dataset is one that SFTTrainer does not prepare (images, or dataset_kwargs with "
            "skip_prepare_dataset); FlowTrainer weighs text that it has seen tokenized"
        )
    if trainer.compute_loss_func is not None:
        raise InputError("compute_loss_func replaces the loss that is weighted; leave it out")
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise InputError(
            "args.parallelism_config shards sequences (cp or sp), and their weights would not be "
            "sharded with them; use data or tensor parallelism"
        )
    if isinstance(trainer.model, PeftModel) and trainer.model.active_peft_config.is_prompt_learning:
        raise InputError("peft_config adds virtual tokens, which have no weights; use LoRA")
