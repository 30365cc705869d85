"""Decoders of the llama family, with the layer types and ropes that differ between their blocks."""

from __future__ import annotations

from typing import Any

from zoo.specimen import Specimen

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Small enough to build in milliseconds; windows of 4 show within 16 tokens."""

FULL, SLIDING = "full_attention", "sliding_attention"


def _old_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Names from before transformers 5: `torch_dtype`, `rope_theta`, `rope_scaling`."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.36.2"
    return config


def _old_windows(config: dict[str, Any]) -> dict[str, Any]:
    """Which blocks have a window is left to `max_window_layers`."""
    del config["layer_types"]
    return _old_rope(config)


def _old_gemma3(config: dict[str, Any]) -> dict[str, Any]:
    """Which blocks have a window is left to `sliding_window_pattern`; two flat rope bases."""
    del config["layer_types"]
    config.pop("_sliding_window_pattern", None)
    rope = config.pop("rope_parameters")
    config["sliding_window_pattern"] = 3
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    config["torch_dtype"] = config.pop("dtype")
    return config


def _no_types(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma 2 on the hub: every other block has a window, by the code's own rule."""
    del config["layer_types"]
    return _old_rope(config)


def _rope_interval(config: dict[str, Any]) -> dict[str, Any]:
    """Only the interval says which blocks go without rope, and so which have a window."""
    del config["layer_types"], config["no_rope_layers"]
    return _old_rope(config)


def _llama(name: str, **settings: Any) -> Specimen:
    chosen = settings.pop("chosen", (0, 2, 3))
    dtype = settings.pop("dtype", "float32")
    hub_config = settings.pop("hub_config", None)
    model_type = settings.pop("model_type")
    return Specimen(
        name=name,
        model_type=model_type,
        settings={**SMALL, "num_hidden_layers": 4, **settings},
        blocks="model.layers.",
        chosen=chosen,
        dtype=dtype,
        hub_config=hub_config,
    )


DENSE = [
    _llama("llama", model_type="llama", attention_bias=True, mlp_bias=True),
    _llama("llama_tied_bf16", model_type="llama", tie_word_embeddings=True, dtype="bfloat16"),
    _llama(
        "llama_old_config",
        model_type="llama",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        hub_config=_old_rope,
    ),
    _llama("mistral", model_type="mistral", sliding_window=4, dtype="bfloat16"),
    _llama(
        "phi3",
        model_type="phi3",
        sliding_window=4,
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 100.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    _llama(
        "qwen2_max_window_layers",
        model_type="qwen2",
        num_hidden_layers=6,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=3,
        tie_word_embeddings=True,
        hub_config=_old_windows,
        chosen=(1, 2, 4),
    ),
    _llama(
        "qwen2_layer_types",
        model_type="qwen2",
        num_hidden_layers=6,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
        layer_types=[FULL, SLIDING, SLIDING, FULL, SLIDING, FULL],
        dtype="bfloat16",
        chosen=(1, 3, 5),
    ),
    _llama(
        "qwen3",
        model_type="qwen3",
        num_hidden_layers=6,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        layer_types=[SLIDING, FULL, FULL, SLIDING, FULL, SLIDING],
        chosen=(0, 2, 3, 5),
    ),
    _llama("qwen3_no_window", model_type="qwen3", tie_word_embeddings=True, dtype="bfloat16"),
    _llama(
        "gemma2",
        model_type="gemma2",
        num_hidden_layers=5,
        sliding_window=4,
        query_pre_attn_scalar=8,
        hub_config=_no_types,
        chosen=(1, 3, 4),
    ),
    _llama(
        "gemma2_layer_types",
        model_type="gemma2",
        sliding_window=4,
        query_pre_attn_scalar=8,
        tie_word_embeddings=False,
        layer_types=[FULL, SLIDING, SLIDING, FULL],
        dtype="bfloat16",
    ),
    _llama(
        "gemma3_pattern",
        model_type="gemma3_text",
        num_hidden_layers=7,
        sliding_window=4,
        sliding_window_pattern=3,
        query_pre_attn_scalar=8,
        hub_config=_old_gemma3,
        chosen=(0, 2, 5, 6),
    ),
    _llama(
        "gemma3_layer_types",
        model_type="gemma3_text",
        num_hidden_layers=5,
        sliding_window=4,
        query_pre_attn_scalar=8,
        layer_types=[SLIDING, FULL, FULL, SLIDING, FULL],
        rope_parameters={
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
        dtype="bfloat16",
        chosen=(1, 3),
    ),
    _llama(
        "smollm3_interval",
        model_type="smollm3",
        num_hidden_layers=6,
        no_rope_layer_interval=3,
        use_sliding_window=True,
        sliding_window=4,
        hub_config=_rope_interval,
        chosen=(1, 2, 4, 5),
    ),
    _llama(
        "smollm3_lists",
        model_type="smollm3",
        num_hidden_layers=5,
        no_rope_layers=[1, 0, 0, 1, 0],
        use_sliding_window=True,
        sliding_window=4,
        layer_types=[FULL, SLIDING, FULL, SLIDING, FULL],
        tie_word_embeddings=False,
        dtype="bfloat16",
        chosen=(0, 3, 4),
    ),
    _llama(
        "olmo3",
        model_type="olmo3",
        num_hidden_layers=6,
        sliding_window=4,
        layer_types=[SLIDING, SLIDING, FULL, SLIDING, FULL, FULL],
        rope_parameters={
            FULL: {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
        chosen=(0, 2, 3),
    ),
    _llama(
        "olmo3_default",
        model_type="olmo3",
        num_hidden_layers=8,
        sliding_window=4,
        dtype="bfloat16",
        chosen=(2, 3, 6, 7),
    ),
]
