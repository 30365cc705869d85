"""The settings of every type put together, and the models built from them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from zoo.specimen import draw_weights
from zoo.types.attention import ATTENTION
from zoo.types.experts import EXPERTS
from zoo.types.generic import GENERIC
from zoo.types.hybrid import HYBRID
from zoo.types.multimodal import MULTIMODAL
from zoo.types.nested import NESTED

ENCODER_DECODERS = [
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "musicgen",
    "musicgen_melody",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "trocr",
    "whisper",
]
ENCODERS = [
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
]
DECODERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {*ENCODER_DECODERS, *ENCODERS})
OWN: dict[str, dict[str, Any]] = {**ATTENTION, **EXPERTS, **HYBRID, **NESTED, **MULTIMODAL}


def settings(model_type: str) -> dict[str, Any]:
    """The fields of one type's tiny configuration; a `...` takes a generic field out."""
    config_class = CONFIG_MAPPING[model_type]
    known = set(config_class.__dataclass_fields__)
    chosen = {name: value for name, value in GENERIC.items() if name in known}
    own = dict(OWN.get(model_type, {}))
    text = getattr(config_class, "sub_configs", {}).get("text_config")
    if "text_config" in known:
        inner = own.get("text_config", {})
        inner_type = inner.get("model_type") or text.model_type
        own["text_config"] = {"model_type": inner_type, **settings(inner_type), **inner}
        chosen = {}
    chosen |= own
    return {name: value for name, value in chosen.items() if value is not ...}


def config_of(model_type: str) -> PretrainedConfig:
    """Build the tiny configuration of one type."""
    return CONFIG_MAPPING[model_type](**settings(model_type))


def model_class(model_type: str) -> type[PreTrainedModel]:
    """The class that reads a type's whole checkpoint: of a multimodal one, all towers."""
    if model_type in MULTIMODAL:
        alone: type[PreTrainedModel] = getattr(
            transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]
        )
        return alone
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    whole = named.replace("ForCausalLM", "ForConditionalGeneration")
    nested = "text_config" in settings(model_type)
    found = getattr(transformers, whole, None) if nested else None
    chosen: type[PreTrainedModel] = found or getattr(transformers, named)
    return chosen


def build(model_type: str) -> PreTrainedModel:
    """Build a type's tiny model, every tensor drawn anew and unlike every other."""
    model = model_class(model_type)._from_config(config_of(model_type))
    draw_weights(model, seed=0)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):  # a table from tokens to experts, not weights
            buffer.random_(0, 4, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


CHOSEN: dict[str, tuple[int, ...]] = {
    "gemma3n_text": (0, 2, 3, 4, 6, 7),
    "gemma4": (0, 3, 4, 5, 7),
    "gemma4_text": (0, 3, 4, 5, 7),
    "gemma4_unified": (0, 3, 4, 5, 7),
    "gemma4_unified_text": (0, 3, 4, 5, 7),
    "glm_moe_dsa": (0, 1, 2, 4),
    "gpt_neox_japanese": (0, 2, 3, 5),
    "hy_v4": (0, 1, 2, 4),
    "jamba": (1, 2, 5, 6),
    "minimax": (1, 4),
    "mllama": (0, 1, 3, 5),
    "qwen3_vl": (0, 1, 3, 5),
    "qwen3_vl_moe": (0, 1, 3, 5),
    "zamba": (0, 1, 3, 4, 6),
}
"""A selection that is not contiguous, where a type does not allow (0, 2, 3, 5)."""
FIRST_ONLY = ("beam", "diffllama")
"""Types in which a block's number is part of what it computes: the first blocks only."""
HALF: dict[str, tuple[int, ...]] = {"gpt_neox_japanese": (3, 4, 5), "minimax": (1, 2)}
"""What stands for the first half, where a type does not allow it."""


def chosen(model_type: str) -> tuple[int, ...]:
    """A selection that a pattern of the first blocks would get wrong."""
    return CHOSEN.get(model_type, (0, 2, 3, 5))


def half(model_type: str, depth: int) -> tuple[int, ...]:
    """The first half of the blocks, or what stands for it."""
    return HALF.get(model_type, tuple(range(depth // 2)))
