"""Fields of a tiny model that mean the same in most configurations."""

from __future__ import annotations

from typing import Any

DEPTH = 6

GENERIC: dict[str, Any] = {
    # sizes
    "vocab_size": 64,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    # depth
    "num_hidden_layers": DEPTH,
    "n_layer": DEPTH,
    "n_layers": DEPTH,
    "num_layers": DEPTH,
    # attention
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "head_dim": 8,
    "sliding_window": 4,
    # latent attention
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 8,
    # experts
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    # state-space, convolution and delta-rule blocks
    "state_size": 4,
    "mamba_d_state": 4,
    "mamba_d_conv": 3,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    # tokens
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Given to a configuration as far as it has the field; windows of 4 show within 16 tokens."""
