"""Small real models, one for each way in which logits are made."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 96

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2_LIKE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA_LIKE),
    "llama-tied": ("llama", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", _GPT2_LIKE),
    "gemma2": ("gemma2", {**_LLAMA_LIKE, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "cohere": ("cohere", {**_LLAMA_LIKE, "logit_scale": 0.0625}),
    "granite": ("granite", {**_LLAMA_LIKE, "logits_scaling": 8.0}),
    "phi-bias": ("phi", _LLAMA_LIKE),
    "minicpm3": (
        "minicpm3",
        {
            **_LLAMA_LIKE,
            "dim_model_base": 8,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "falcon_h1": (
        "falcon_h1",
        {
            **_LLAMA_LIKE,
            "lm_head_multiplier": 0.5,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    "mamba": ("mamba", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}),
    "opt-projected": (
        "opt",
        {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            **_LLAMA_LIKE,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "experts_implementation": "eager",  # the grouped product knows no float64
            "moe_intermediate_size": 16,
        },
    ),
}


def tiny(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build the model with weights large enough that its logits are far from equal."""
    model_type, settings = CONFIGS[name]
    config = AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()
