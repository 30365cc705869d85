"""Attention mixed with state-space, convolution or delta-rule blocks, and those blocks alone."""

from __future__ import annotations

from typing import Any

from zoo.types.attention import FULL, SLIDING

LINEAR = "linear_attention"
_MIXED = [LINEAR, FULL, FULL, LINEAR, FULL, LINEAR]
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_chunk_size": 4}

HYBRID: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {
        "head_dim": ...,
        "num_key_value_heads": 4,
        "layer_types": _MIXED,
        "first_k_dense_replace": 2,
        "num_mtp_layers": 0,
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 2, 4]},
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 64},
    "granitemoehybrid": {**_MAMBA2, "layer_types": _MIXED, "shared_intermediate_size": 16},
    "inkling_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "sliding_window_size": 4,
        "d_rel": 4,
        "rel_extent": 8,
        "local_layer_ids": [0, 3, 5],
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse", "sparse", "sparse"],
    },
    "inkling2_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "sliding_window_size": 4,
        "d_rel": 4,
        "rel_extent": 8,
        "n_layers_per_attn_res_block": 2,
    },
    "jamba": {
        "num_hidden_layers": 8,
        "attn_layer_period": 4,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_dt_rank": 4,
    },
    "kimi_linear": {
        "num_key_value_heads": 4,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "layer_types": _MIXED,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse", "sparse", "sparse"],
    },
    "lara_mini": {"layer_types": [LINEAR, SLIDING, FULL, LINEAR, FULL, SLIDING]},
    "lfm2": {"full_attn_idxs": [1, 2, 4]},
    "lfm2_moe": {
        "layer_types": ["conv", FULL, FULL, "conv", FULL, "conv"],
        "num_dense_layers": 2,
    },
    "lfm3": {"layer_types": ["conv", FULL, FULL, "conv", FULL, "conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "minimax": {"layer_types": _MIXED, "block_size": 8},
    "nemotron_h": {
        "layers_block_type": [LINEAR, "moe", FULL, "mlp", LINEAR, FULL],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 4,
        "n_groups": 2,
        "chunk_size": 4,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo_hybrid": {"layer_types": _MIXED},
    "qwen3_5_moe_text": {"layer_types": _MIXED},
    "qwen3_5_text": {"layer_types": _MIXED},
    "qwen3_next": {"layer_types": _MIXED, "mlp_only_layers": [0, 3]},
    "qwen4_exp_text": {
        "ple_layer_ids": [1, 4],
        "ngram_vocab_size_base": 16,
        "heads_per_ngram": 2,
        "make_ngram_vocab_size_divisible_by": 4,
        "split_ngram_parts": 2,
        "layer_types": [LINEAR, "indexed_attention", "indexed_attention"] * 2,
        "output_gate_type": "silu",
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {
        "lru_width": 32,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {
        "hidden_size": 64,  # its cache rounds up to a multiple of 64, its blocks do not
        "num_blocks": 6,
        "qk_dim_factor": 1.0,
        "num_heads": 2,
        "chunk_size": 16,
        "ffn_round_up_to_multiple_of": 16,
    },
    "zamba": {
        "num_hidden_layers": 8,
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
        "layers_block_type": [
            LINEAR,
            "hybrid",
            LINEAR,
            "hybrid",
            LINEAR,
            "hybrid",
            "hybrid",
            LINEAR,
        ],
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "num_hidden_layers": 8,
        "num_key_value_heads": 4,
        "layers_block_type": [
            LINEAR,
            "hybrid",
            LINEAR,
            "hybrid",
            LINEAR,
            "hybrid",
            "hybrid",
            LINEAR,
        ],
        "chunk_size": 4,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 4,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid", "hybrid_sliding", "hybrid"],
        "router_hidden_size": 8,
    },
}
