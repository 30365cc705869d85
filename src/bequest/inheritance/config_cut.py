"""The configuration of a cut model: the source's own JSON, with what follows depth changed.

The edit is made on the JSON as it stands, so that fields unknown to this version of transformers
survive. Then both configurations are read by transformers and compared field by field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest.errors import UnsupportedModelError
from bequest.inheritance.architectures import (
    ARCHITECTURES,
    EVERYWHERE,
    FLAT,
    MULTIMODAL,
    NESTED,
    Architecture,
)
from bequest.inheritance.cache_check import require_attention
from bequest.inheritance.depth_limits import require_deepstack
from bequest.inheritance.depth_rules import REMOVED, Changes
from bequest.inheritance.refused_types import ENCODER_DECODERS, ENCODERS, REFUSED

_TOKEN_FIELDS = ("_token_id", "_token_ids", "architectures")


def require_decoder(config: Mapping[str, Any], *, model: str) -> Architecture:
    """Return the facts of a configuration's architecture, refusing what cannot be cut correctly.

    Args:
        config: the parsed `config.json`.
        model: the checkpoint's name, for messages.

    Raises:
        UnsupportedModelError: no decoder, or one whose ties to depth bequest does not know.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"{model} has model_type {model_type!r} in config.json; it must name an architecture."
        )
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(
            f"{model} is an encoder-decoder model ({model_type}); bequest cuts decoders only."
        )
    if config.get("add_cross_attention"):
        raise UnsupportedModelError(
            f"{model} has add_cross_attention set: it reads an encoder; bequest cuts plain decoders."
        )
    if model_type in REFUSED:
        raise UnsupportedModelError(
            f"{model} has model_type {model_type!r}, which bequest does not cut: {REFUSED[model_type]}."
        )
    if model_type in NESTED:
        model_type = _inner_type(config, NESTED[model_type], model)
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    kind = {
        **dict.fromkeys(ENCODER_DECODERS, "reads an encoder"),
        **dict.fromkeys(ENCODERS, "is an encoder, trained on masked language"),
    }.get(model_type)
    if kind is not None:
        raise UnsupportedModelError(
            f"{model} has model_type {model_type!r}, which {kind}; bequest cuts decoders only."
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{model} has model_type {model_type!r}, which is no causal language model of the "
            "installed transformers; bequest cuts those that docs/architectures.md lists."
        )
    raise UnsupportedModelError(
        f"{model} has model_type {model_type!r}, whose ties to depth bequest does not know yet; it "
        "cuts the types that docs/architectures.md lists."
    )


def read_config(config: Mapping[str, Any], *, model: str) -> Any:
    """Read a `config.json` as transformers does, defaults and derived fields filled in.

    Raises:
        UnsupportedModelError: transformers refuses it.
    """
    from transformers import CONFIG_MAPPING

    try:
        config_class = CONFIG_MAPPING[config["model_type"]]
        # Infinity is no number in JSON; transformers writes it as an object.
        return config_class.from_dict(config_class._decode_special_floats(dict(config)))
    except Exception as error:  # Its strict validation raises errors of many kinds.
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(
            f"{model} has a config.json that transformers refuses: {reason}"
        ) from error


def kept_in_float32(config: Any, dtype: str | None) -> tuple[str, ...]:
    """Return the modules that transformers holds in float32 in a model of a 16-bit dtype.

    Source: `PreTrainedModel._get_dtype_plan`.

    Args:
        config: a transformers configuration.
        dtype: the dtype that the model's floats are to have, or None.
    """
    if dtype not in ("float16", "bfloat16"):
        return ()
    from transformers.models.auto import modeling_auto

    lists = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if config.model_type in MULTIMODAL:
        lists = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    model_class = lists[type(config)]
    kept = set(getattr(model_class, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == "float16":
        kept |= set(getattr(model_class, "_keep_in_fp32_modules", None) or ())
    return tuple(sorted(kept))


def decoder_config(config: Any) -> Any:
    """Return the part of a transformers configuration that describes the decoder."""
    field = NESTED.get(config.model_type)
    return config if field is None else getattr(config, field)


def depth_of(config: Any) -> int:
    """Return how many blocks a transformers configuration states."""
    decoder = decoder_config(config)
    return int(getattr(decoder, depth_field(decoder)))


def model_class(config: Mapping[str, Any]) -> str:
    """Return the class of transformers that a configuration's checkpoint is loaded with.

    A nested decoder has a class of its own that would leave the other towers' weights unread; the
    class that the checkpoint names reads them all.
    """
    import transformers

    named = config.get("architectures")
    if config.get("model_type") in NESTED and isinstance(named, list) and len(named) == 1:
        found = getattr(transformers, str(named[0]), None)
        if (
            getattr(found, "config_class", None)
            is transformers.CONFIG_MAPPING[config["model_type"]]
        ):
            return str(named[0])
    if config.get("model_type") in MULTIMODAL:
        return "AutoModelForImageTextToText"
    return "AutoModelForCausalLM"


def _inner_type(config: Mapping[str, Any], field: str, model: str) -> str:
    flat = config["model_type"] in FLAT and field not in config
    if not flat and not isinstance(config.get(field), dict):
        raise UnsupportedModelError(
            f"{model} has no {field} in config.json, where a {config['model_type']} model states its "
            "decoder."
        )
    return str(getattr(read_config(config, model=model), field).model_type)


def depth_field(config: Any) -> str:
    """Return the name under which a configuration stores the number of blocks, such as `n_layer`."""
    facts = ARCHITECTURES.get(config.model_type)
    if facts is not None and facts.depth is not None:
        return facts.depth
    return str(getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers"))


def depth_names(config: Any) -> set[str]:
    """Return every name under which a `config.json` may state the number of blocks."""
    field = depth_field(config)
    aliases = getattr(config, "attribute_map", {})
    return {field, *(alias for alias, name in aliases.items() if name == field)}


def cut_config(
    config: Mapping[str, Any], selection: Sequence[int], architecture: Architecture, *, model: str
) -> tuple[dict[str, Any], Changes]:
    """Return the configuration of the model with the selected blocks, and what was changed.

    Args:
        config: the source's parsed `config.json`.
        selection: the blocks that are kept, in increasing order.
        architecture: from `require_decoder`.
        model: the checkpoint's name, for messages.

    Returns:
        The new JSON, and the fields changed (`REMOVED` for one that is gone).

    Raises:
        UnsupportedModelError: a field that may be tied to depth is not known to be, or transformers
            could not run the cut.
    """
    field = NESTED.get(config["model_type"])
    whole = read_config(config, model=model)
    if field is not None:
        require_deepstack(whole, selection, model=model)
        flat = field not in config
        own = config if flat else config[field]
        inner, changes = _cut(own, getattr(whole, field), selection, architecture, model)
        result = inner if flat else {**config, field: inner}
        after = read_config(result, model=f"the cut of {model}")
        _compare(getattr(whole, field), getattr(after, field), changes, model)
        _compare(whole, after, {field: after.to_dict()[field]}, model)
        require_attention(getattr(whole, field), getattr(after, field), model=model)
        if flat:
            return result, changes
        shown = {name: None if value is REMOVED else value for name, value in changes.items()}
        return result, {field: shown}
    result, changes = _cut(config, whole, selection, architecture, model)
    after = read_config(result, model=f"the cut of {model}")
    _compare(whole, after, changes, model)
    require_attention(whole, after, model=model)
    return result, changes


def _cut(
    config: Mapping[str, Any],
    source: Any,
    selection: Sequence[int],
    architecture: Architecture,
    model: str,
) -> tuple[dict[str, Any], Changes]:
    changes: Changes = {depth_field(source): len(selection)}
    for rule in (*EVERYWHERE, *architecture.rules):
        changes.update(rule.cut(source, selection))
    _refuse_unknown_lists(config, getattr(source, depth_field(source)), changes, model)
    result = {name: value for name, value in config.items() if changes.get(name) is not REMOVED}
    result.update({name: value for name, value in changes.items() if value is not REMOVED})
    # An alias of the depth field, if the JSON uses one, would contradict the new value.
    result |= {name: len(selection) for name in depth_names(source) if name in config}
    return result, changes


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write a `config.json`.

    Raises:
        OSError: writing failed.
    """
    path.write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def _refuse_unknown_lists(
    config: Mapping[str, Any], depth: int, changes: Changes, model: str
) -> None:
    for name, value in config.items():
        harmless = name in changes or name.endswith(_TOKEN_FIELDS) or depth == 1
        if isinstance(value, list) and len(value) == depth and not harmless:
            raise UnsupportedModelError(
                f"{model}: config.json field {name!r} is a list as long as the model is deep, and "
                "bequest does not know whether it holds one entry a block."
            )


def _compare(source: Any, result: Any, changes: Changes, model: str) -> None:
    """Check that transformers reads the new configuration as the old one, but for the changes."""
    before, after = source.to_dict(), result.to_dict()
    expected = {**before, **{k: v for k, v in changes.items() if v is not REMOVED}}
    free = {name for name, value in changes.items() if value is REMOVED}
    for name in sorted(before.keys() | after.keys()):
        if name in free or name.removeprefix("_") in free:
            continue
        # By their text, because a NaN does not even equal itself.
        if repr(expected.get(name)) != repr(after.get(name)):
            raise UnsupportedModelError(
                f"{model}: with other blocks, transformers reads config.json field {name!r} as "
                f"{after.get(name)!r} instead of {expected.get(name)!r}; bequest cannot cut this model."
            )
