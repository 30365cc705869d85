"""The model that pre-training starts from: a checkpoint's weights, or drawn from a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from bequest.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bequest.checkpoints.locate import Location, locate
from bequest.errors import InputError, explained

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, kw_only=True, eq=False)
class StartingModel:
    """A model that is known but for its weights."""

    config: PretrainedConfig
    """Its configuration; of a model from scratch the vocabulary's size is the tokenizer's."""
    checkpoint: Checkpoint | None
    """Where its weights are; None draws them."""
    location: Location | None
    """Where its configuration or weights came from; None if it was described by model_config."""
    trust_remote_code: bool
    """Whether Python files of the model's folder run."""

    def skeleton(self) -> PreTrainedModel:
        """Return the model without storage for its weights."""
        with torch.device("meta"):
            return self._from_config()

    def load(self, seed: int) -> PreTrainedModel:
        """Return the model in float32, its weights read, or drawn with a seed.

        Raises:
            InputError: the checkpoint lacks weights of the model.
        """
        if self.checkpoint is None:
            set_seed(seed)
            return self._from_config()
        name = self.checkpoint.location.name
        with explained(f"model {name} cannot be loaded"):
            model, told = AutoModelForCausalLM.from_pretrained(
                self.checkpoint.location.folder,
                config=self.config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=self.trust_remote_code,
            )
        lacking = sorted([*told["missing_keys"], *map(str, told["mismatched_keys"])])
        if lacking:
            raise InputError(
                f"model {name} lacks {lacking[0]} and would begin with random weights there; name "
                "the folder of a whole model, or set from_scratch"
            )
        return model

    def _from_config(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(
            self.config, dtype=torch.float32, trust_remote_code=self.trust_remote_code
        )


def find_start(
    model: str | None,
    model_config: Mapping[str, Any],
    *,
    from_scratch: bool,
    revision: str | None,
    trust_remote_code: bool,
) -> StartingModel:
    """Find the model to begin with, and refuse what is no causal language model.

    Args:
        model: folder or hub id; None describes the model by `model_config` alone.
        model_config: `model_type` and fields of its configuration; with `model`, fields that
            replace the model's own, which needs `from_scratch`.
        from_scratch: draw the weights instead of reading the model's.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: let Python files of the model's folder run.

    Raises:
        InputError: these contradict one another, or there is no such model, field or checkpoint.
    """
    given = dict(model_config)
    if model is None:
        kind = given.pop("model_type", None)
        if kind is None:
            raise InputError(
                "model is missing; name a folder or a hub id, or give model_config a model_type, such "
                "as llama, to train from scratch"
            )
        if kind not in CONFIG_MAPPING:
            near = difflib.get_close_matches(str(kind), CONFIG_MAPPING, n=1)
            hint = f"did you mean {near[0]}?" if near else "such as llama, qwen3 or gpt2"
            raise InputError(
                f"model_config.model_type is {kind!r}, which transformers lacks; {hint}"
            )
        config_class = CONFIG_MAPPING[kind]
        _check_fields(given, config_class())
        with explained("model_config is not what transformers takes"):
            config = config_class(**given)
        start = StartingModel(
            config=config, checkpoint=None, location=None, trust_remote_code=trust_remote_code
        )
    else:
        if given and not from_scratch:
            raise InputError(
                f"model_config changes {next(iter(given))}, which the weights of {model} do not fit; "
                "set from_scratch to draw new ones, or leave model_config out"
            )
        location = locate(model, revision=revision, field="model")
        with explained(f"model {location.name} cannot be read"):
            config = AutoConfig.from_pretrained(
                location.folder, trust_remote_code=trust_remote_code
            )
            if given:
                _check_fields(given, config)
                config = type(config).from_dict({**_resized(config, given), **given})
        start = StartingModel(
            config=config,
            checkpoint=None if from_scratch else open_checkpoint(model, revision=revision),
            location=location,
            trust_remote_code=trust_remote_code,
        )
    reads_both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder
    if reads_both_ways and not getattr(config, "is_decoder", False):
        raise InputError(
            f"model is of the type {config.model_type}, which sees the tokens that it should predict; "
            "take a decoder, such as llama"
        )
    with explained("model is no causal language model that transformers can make"):
        start.skeleton()
    return start


def load_tokenizer(name: str | None, start: StartingModel) -> PreTrainedTokenizerBase:
    """Read a tokenizer by folder or hub id, or that of the model.

    Raises:
        InputError: there is none.
    """
    if name is not None:
        location = locate(name, field="tokenizer")
    elif start.location is not None:
        location = start.location
    else:
        raise InputError(
            "tokenizer is missing; name a folder or a hub id, or set train_tokenizer to a number of "
            "tokens"
        )
    with explained(f"tokenizer {location.name} cannot be read"):
        return AutoTokenizer.from_pretrained(
            location.folder, trust_remote_code=start.trust_remote_code
        )


def fit_to_tokenizer(
    start: StartingModel,
    tokenizer: PreTrainedTokenizerBase | None,
    size: int,
    given: Mapping[str, Any],
) -> None:
    """Give a model from scratch the tokenizer's vocabulary, and refuse one that is too small.

    Args:
        start: its configuration is changed if its weights are to be drawn.
        tokenizer: whose special tokens it gets; None while the tokenizer is not trained yet.
        size: the tokenizer's tokens.
        given: the user's `model_config`: its `vocab_size` stays if it is large enough.

    Raises:
        InputError: the model has no place for some tokens.
    """
    text_config = start.config.get_text_config()
    if start.checkpoint is None:
        if "vocab_size" not in given:
            text_config.vocab_size = size
        if tokenizer is not None:
            for name in _SPECIAL_TOKENS:
                setattr(text_config, name, getattr(tokenizer, name))
        else:
            # Not yet known, and those of the configuration's class may lie beyond the vocabulary.
            for name in _SPECIAL_TOKENS:
                setattr(text_config, name, None)
    if text_config.vocab_size < size:
        raise InputError(
            f"model has a vocabulary of {text_config.vocab_size:,} tokens, but the tokenizer has "
            f"{size:,}; give the model's own tokenizer"
        )


def _check_fields(given: Mapping[str, Any], config: PretrainedConfig) -> None:
    known = {*config.to_dict(), *config.attribute_map}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see its documentation"
            raise InputError(
                f"model_config has {name!r}, which is no field of {type(config).__name__}; {hint}"
            )


def _resized(config: PretrainedConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's fields without those that follow from what is replaced."""
    fields: dict[str, Any] = config.to_dict()
    if "num_hidden_layers" in given:
        # One entry a layer: the class fills it anew.
        fields.pop("layer_types", None)
    if "hidden_size" in given or "num_attention_heads" in given:
        fields.pop("head_dim", None)
    return fields
