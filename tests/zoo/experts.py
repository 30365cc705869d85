"""Mixtures of experts, whose dense blocks stand at fixed places."""

from __future__ import annotations

from typing import Any

import torch

from zoo.dense import SMALL
from zoo.specimen import Specimen, State, draw_weights

QWEN3_MOE: dict[str, Any] = {
    **SMALL,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
}
DEEPSEEK: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key != "head_dim"},
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


def _with_prediction_block(state: State) -> State:
    """`deepseek-ai/DeepSeek-V3`: after the last block one that predicts a second token."""
    depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("model.layers."))
    last, extra = f"model.layers.{depth - 1}.", f"model.layers.{depth}."
    blocks = {key: value for key, value in state.items() if key.startswith(last)}
    hidden = state["model.norm.weight"].shape[0]
    heads = torch.nn.ModuleDict(
        {
            "enorm": torch.nn.RMSNorm(hidden),
            "hnorm": torch.nn.RMSNorm(hidden),
            "eh_proj": torch.nn.Linear(2 * hidden, hidden, bias=False),
        }
    )
    draw_weights(heads, seed=1)
    return {
        **state,
        **{extra + key.removeprefix(last): value.flip(0).clone() for key, value in blocks.items()},
        **{extra + key: value.to(torch.bfloat16) for key, value in heads.state_dict().items()},
        extra + "embed_tokens.weight": state["model.embed_tokens.weight"].clone(),
        extra + "shared_head.norm.weight": state["model.norm.weight"].clone(),
        extra + "shared_head.head.weight": state["lm_head.weight"].clone(),
    }


EXPERTS = [
    Specimen(
        name="mixtral",
        model_type="mixtral",
        settings={**SMALL, "num_hidden_layers": 4, "num_local_experts": 4, "sliding_window": 4},
        blocks="model.layers.",
        chosen=(0, 2, 3),
    ),
    Specimen(
        name="mixtral_tied_bf16",
        model_type="mixtral",
        settings={
            **SMALL,
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "tie_word_embeddings": True,
        },
        blocks="model.layers.",
        chosen=(1, 3),
        dtype="bfloat16",
    ),
    Specimen(
        name="qwen3_moe_sparse_step",
        model_type="qwen3_moe",
        settings={
            **QWEN3_MOE,
            "num_hidden_layers": 7,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "use_sliding_window": True,
            "sliding_window": 4,
        },
        blocks="model.layers.",
        chosen=(0, 1, 3, 5, 6),
    ),
    Specimen(
        name="qwen3_moe_mlp_only",
        model_type="qwen3_moe",
        settings={
            **QWEN3_MOE,
            "num_hidden_layers": 6,
            "mlp_only_layers": [0, 3],
            "tie_word_embeddings": True,
        },
        blocks="model.layers.",
        chosen=(1, 2, 3, 5),
        dtype="bfloat16",
    ),
    Specimen(
        name="deepseek_v3",
        model_type="deepseek_v3",
        settings={
            **DEEPSEEK,
            "num_hidden_layers": 5,
            "first_k_dense_replace": 2,
            "q_lora_rank": 8,
            "num_nextn_predict_layers": 0,
        },
        blocks="model.layers.",
        chosen=(1, 2, 4),
    ),
    Specimen(
        name="deepseek_v3_no_dense_left",
        model_type="deepseek_v3",
        settings={
            **DEEPSEEK,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
            "q_lora_rank": None,
            "num_nextn_predict_layers": 0,
            "tie_word_embeddings": True,
        },
        blocks="model.layers.",
        chosen=(1, 3),
    ),
    Specimen(
        name="deepseek_v3_prediction_block",
        model_type="deepseek_v3",
        settings={
            **DEEPSEEK,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "num_nextn_predict_layers": 1,
        },
        blocks="model.layers.",
        chosen=(0, 2, 3),
        dtype="bfloat16",
        hub_state=_with_prediction_block,
    ),
]
