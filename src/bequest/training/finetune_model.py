"""The model of a fine-tuning run, judged without its weights: is it whole, and what is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError, explained
from bequest.training.finetune_config import FinetuneConfig
from bequest.training.score_plan import ScorePlan

if TYPE_CHECKING:
    import torch

_LORA_STARTS = (True, False, "gaussian", "orthogonal")
"""Ways of starting an adapter that need no data and leave the weights under it as they were."""


def load_skeleton(config: FinetuneConfig, scoring: ScorePlan) -> Any:
    """Load the model without its weights, and refuse one whose files lack some of them.

    Raises:
        InputError: it does not load, is not whole, or has no head.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    name = scoring.location.name
    logging.disable_progress_bar()
    with explained(f"model {name} cannot be loaded"):
        skeleton, told = AutoModelForCausalLM.from_pretrained(
            scoring.location.folder,
            device_map="meta",
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
        )
    missing = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if missing:
        raise InputError(
            f"model {name} lacks {missing[0]}, or has it in another shape, and would train from "
            "random weights there; name the folder of a whole model"
        )
    if skeleton.get_output_embeddings() is None:
        raise InputError(f"model {name} has no language-model head; name a causal language model")
    return skeleton


def check_vocabulary(scoring: ScorePlan, skeleton: Any) -> None:
    """Refuse tokens that the model has no row for, in its embedding or its head.

    Raises:
        InputError: there are such tokens in the data.
    """
    tables = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    rows = min(int(table.weight.shape[0]) for table in tables)
    largest = max(int(ids.max()) for ids in scoring.tokenized.input_ids if len(ids))
    if largest >= rows:
        raise InputError(
            f"model {scoring.location.name} has a head and an embedding of {rows:,} tokens, but its "
            f"tokenizer made token {largest:,} of the data; give the model its own tokenizer"
        )


def trained_dtype(config: FinetuneConfig, scoring: ScorePlan) -> torch.dtype:
    """Return the dtype of the weights while they are trained."""
    import torch

    if config.dtype == "auto":
        return torch.float32 if config.lora is None else scoring.dtype
    named: torch.dtype = getattr(torch, config.dtype)
    return named


def count_trained(config: FinetuneConfig, skeleton: Any) -> int:
    """Count the parameters that are trained, by making the model ready as the trainer will.

    Args:
        config: what was asked.
        skeleton: the model without its weights, which is changed.

    Raises:
        InputError: the adapter does not fit the model, or its head cannot be trained alone.
    """
    if config.method.linear_probe:
        from bequest.training.linear_probe import freeze_body

        freeze_body(skeleton)
    if config.lora is None:
        return int(skeleton.num_parameters(only_trainable=True))
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    with explained("lora does not fit the model"):
        adapted = get_peft_model(skeleton, lora_config(config.lora), low_cpu_mem_usage=True)
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise InputError("lora.target_modules names the head, whose adapter TRL would not train")
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def lora_config(lora: Mapping[str, Any]) -> Any:
    """Make PEFT's LoraConfig from the configuration's mapping.

    Raises:
        InputError: LoraConfig has no such field or refuses a value.
    """
    from peft import LoraConfig

    known = {field.name for field in dataclasses.fields(LoraConfig)}
    unknown = sorted(set(lora) - known)
    if unknown:
        raise InputError(f"lora has {unknown[0]!r}, which is no field of PEFT's LoraConfig")
    start = lora.get("init_lora_weights", True)
    if start not in _LORA_STARTS:
        raise InputError(
            f"lora.init_lora_weights is {start!r}, which changes the weights under the adapter; "
            "leave it out"
        )
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **lora})
    except (TypeError, ValueError) as error:
        raise InputError(f"lora is not what LoraConfig takes: {error}") from error
