"""Mixtures of experts: what they need beside the generic fields."""

from __future__ import annotations

from typing import Any

from zoo.types.attention import FULL, MIXED, SLIDING

_OWN_HEAD_SIZE: dict[str, Any] = {"head_dim": ...}
_LATENT = {**_OWN_HEAD_SIZE, "num_key_value_heads": 4}
_FIRST_DENSE: dict[str, Any] = {"first_k_dense_replace": 2}
DENSE, SPARSE = "dense", "sparse"
_SOME_DENSE = [DENSE, SPARSE, DENSE, SPARSE, SPARSE, SPARSE]

EXPERTS: dict[str, dict[str, Any]] = {
    "afmoe": {"num_dense_layers": 2, "global_attn_every_n_layers": 3},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**_LATENT, "mlp_layer_types": _SOME_DENSE},
    "axk2": {**_LATENT, "mlp_layer_types": _SOME_DENSE},
    "beam": {"layer_types": [*MIXED[:5], FULL], "mlp_layer_types": _SOME_DENSE},
    "cohere2_moe": {"layer_types": MIXED, "mlp_layer_types": _SOME_DENSE},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 100.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {**_LATENT, **_FIRST_DENSE},
    "deepseek_v3": {**_LATENT, **_FIRST_DENSE},
    "deepseek_v32": {**_LATENT, "mlp_layer_types": _SOME_DENSE},
    "deepseek_v4": {
        "num_hidden_layers": 7,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "partial_rotary_factor": 0.5,
        "hc_mult": 2,
        "o_groups": 2,
        "o_lora_rank": 8,
        "num_nextn_predict_layers": 0,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    },
    "dots1": {**_FIRST_DENSE, "max_window_layers": 3},
    "dots3_note_text": {
        **_LATENT,
        "head_dim": 12,
        "layer_types": [FULL, SLIDING, SLIDING, FULL, SLIDING, FULL],
        "mlp_layer_types": _SOME_DENSE,
        "shared_experts_intermediate_size": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 8,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
    },
    "exaone_moe": {"layer_types": MIXED, "mlp_layer_types": _SOME_DENSE},
    "flint": {"layer_types": MIXED, "mlp_only_layers": [0, 3]},
    "glm4_moe": _FIRST_DENSE,
    "glm4_moe_lite": {**_LATENT, "mlp_layer_types": _SOME_DENSE},
    "glm_moe_dsa": {
        **_LATENT,
        "mlp_layer_types": _SOME_DENSE,
        "indexer_types": ["full", "full", "shared", "full", "full", "full"],
    },
    "gpt_oss": {"layer_types": MIXED},
    "granitemoe_swa": {"layer_types": MIXED},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": [1, 2, 1, 2, 2, 1]},
    "hy_v3": {"mlp_layer_types": _SOME_DENSE},
    "hy_v4": {
        **_LATENT,
        "mlp_layer_types": _SOME_DENSE,
        "indexer_types": ["full", "full", "shared", "full", "full", "full"],
    },
    "laguna": {
        "layer_types": MIXED,
        "mlp_layer_types": _SOME_DENSE,
        "num_attention_heads_per_layer": [4, 2, 4, 4, 2, 2],
    },
    "llama4_text": {
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 4,
        "moe_layers": [1, 2, 5],
        "no_rope_layers": [1, 0, 1, 1, 0, 0],
        "layer_types": ...,
    },
    "longcat_flash": {
        **_LATENT,
        "num_layers": 6,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "head_dim": 4,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mellum": {"layer_types": MIXED, "mlp_layer_types": _SOME_DENSE},
    "mimo_v2_flash": {"layer_types": MIXED, "mlp_layer_types": _SOME_DENSE},
    "minimax_m3_vl_text": {
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 16,
        "rotary_dim": 4,
        "index_block_size": 4,
        "index_topk_blocks": 2,
        "mlp_layer_types": _SOME_DENSE,
    },
    "qwen2_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3], "layer_types": MIXED}
    | {"use_sliding_window": True},
    "qwen3_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "sarvam_mla": {**_LATENT, **_FIRST_DENSE},
    "sarvam_moe": _FIRST_DENSE,
    "solar_open": {},
}
