"""Dense decoders: what they need beside the generic fields."""

from __future__ import annotations

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"
MIXED = [SLIDING, FULL, FULL, SLIDING, FULL, SLIDING]
"""No selection of it, but the first blocks, is what a pattern would make of fewer blocks."""

ATTENTION: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "cohere2": {"layer_types": MIXED},
    "cohere_compass_text": {
        "layer_types": MIXED,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 100.0} for kind in (FULL, SLIDING)
        },
    },
    "cpmant": {"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "position_bias_num_buckets": 16},
    "ctrl": {"dff": 48},
    "cwm": {"layer_types": MIXED},
    "exaone4": {"layer_types": MIXED},
    "gemma2": {"layer_types": MIXED},
    "gemma3_text": {"layer_types": MIXED, "query_pre_attn_scalar": 8},
    "gemma3n_text": {
        "num_hidden_layers": 8,
        "layer_types": [SLIDING, FULL, FULL, SLIDING, FULL, SLIDING, FULL, SLIDING],
        "intermediate_size": [48, 40, 48, 32, 48, 48, 40, 32],
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 3,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 4,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
    },
    "gemma4_text": {
        "num_hidden_layers": 8,
        "layer_types": [FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL, FULL],
        "num_kv_shared_layers": 3,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 4,
        "per_layer_config": {index: {"head_dim": 16} for index in (0, 3, 6, 7)},
    },
    "gemma4_unified_text": {
        "num_hidden_layers": 8,
        "layer_types": [FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL, FULL],
        "num_kv_shared_layers": 3,
    },
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 2]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "granite_swa": {"layer_types": MIXED},
    "kolibri1": {"layer_types": MIXED},
    "ministral": {"layer_types": MIXED},
    "minicpm3": {"scale_depth": 1.4, "head_dim": 4, "num_key_value_heads": 4},
    "modernbert-decoder": {"layer_types": MIXED},
    "mpt": {"expansion_ratio": 2},
    "olmo3": {"layer_types": MIXED},
    "openai-gpt": {"n_ctx": 64},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2, "layer_types": MIXED},
    "reformer": {
        "is_decoder": True,
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh", "lsh", "local", "lsh", "local"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": 48,
        "hash_seed": 1,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
    },
    "smollm3": {"use_sliding_window": True, "no_rope_layers": [1, 0, 1, 1, 0, 0]},
    "vaultgemma": {"layer_types": MIXED},
    "xlnet": {"d_inner": 48},
    "youtu": {"head_dim": 4, "num_key_value_heads": 4},
}
