"""The settings of every type put together, and the models built from them."""

from __future__ import annotations

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from zoo.specimen import draw_weights
from zoo.types.attention import ATTENTION
from zoo.types.experts import EXPERTS
from zoo.types.generic import GENERIC
from zoo.types.hybrid import HYBRID
from zoo.types.nested import NESTED

ENCODER_DECODERS = (
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart musicgen musicgen_melody mvp "
    "pegasus plbart prophetnet trocr whisper"
).split()
ENCODERS = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert "
    "roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod"
).split()
DECODERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {*ENCODER_DECODERS, *ENCODERS})
OWN: dict[str, dict[str, Any]] = {**ATTENTION, **EXPERTS, **HYBRID, **NESTED}


def settings(model_type: str) -> dict[str, Any]:
    """The fields of one type's tiny configuration; a `...` takes a generic field out."""
    config_class = CONFIG_MAPPING[model_type]
    known = set(config_class.__dataclass_fields__)
    chosen = {name: value for name, value in GENERIC.items() if name in known}
    own = {name: value for name, value in OWN.get(model_type, {}).items()}
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


def build(model_type: str) -> PreTrainedModel:
    """Build a type's tiny model, every tensor drawn anew and unlike every other."""
    model = AutoModelForCausalLM.from_config(config_of(model_type))
    draw_weights(model, seed=0)
    return model.eval()
