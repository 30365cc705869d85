"""GPT-2, GPT-NeoX and OPT, whose checkpoints on the hub differ most from what is written today."""

from __future__ import annotations

from typing import Any

import torch

from zoo.specimen import Specimen, State

IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
QUIET: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2: dict[str, Any] = {
    "vocab_size": 96,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    **QUIET,
    **IDS,
}
NEOX: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **IDS,
}
OPT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "ffn_dim": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    **IDS,
}


def _old_dtype(config: dict[str, Any]) -> dict[str, Any]:
    config["torch_dtype"] = config.pop("dtype")
    return config


def _gpt2_as_published(state: State) -> State:
    """`openai-community/gpt2`: no `transformer.`, and each block's causal mask as a buffer."""
    plain = {key.removeprefix("transformer."): value for key, value in state.items()}
    plain.pop("lm_head.weight", None)
    for block in range(4):
        plain[f"h.{block}.attn.bias"] = torch.ones(64, 64).tril().view(1, 1, 64, 64)
    return plain


def _neox_as_published(state: State) -> State:
    """`EleutherAI/pythia`: `embed_out`, and masks, a fill value and rope frequencies as buffers."""
    published = {key.replace("lm_head.", "embed_out."): value for key, value in state.items()}
    for block in range(5):
        attention = f"gpt_neox.layers.{block}.attention."
        published[attention + "bias"] = torch.ones(64, 64, dtype=torch.uint8).tril()[None, None]
        published[attention + "masked_bias"] = torch.tensor(-1e9)
        published[attention + "rotary_emb.inv_freq"] = torch.tensor([1.0])
    return published


def _neox_old_config(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.pop("rope_parameters")
    config["rotary_pct"] = rope["partial_rotary_factor"]
    config["rotary_emb_base"] = rope["rope_theta"]
    return _old_dtype(config)


def _opt_as_published(state: State) -> State:
    """`facebook/opt-350m`: keys without `model.`, and the tied head as a tensor of its own."""
    published = {key.removeprefix("model."): value for key, value in state.items()}
    published["lm_head.weight"] = published["decoder.embed_tokens.weight"].clone()
    return published


CLASSIC = [
    Specimen(
        name="gpt2",
        model_type="gpt2",
        settings={**GPT2, "n_inner": 40},
        blocks="transformer.h.",
        chosen=(0, 2, 3),
    ),
    Specimen(
        name="gpt2_upcast_untied",
        model_type="gpt2",
        settings={**GPT2, "reorder_and_upcast_attn": True, "tie_word_embeddings": False},
        blocks="transformer.h.",
        chosen=(1, 3),
        dtype="bfloat16",
    ),
    Specimen(
        name="gpt2_as_published",
        model_type="gpt2",
        settings=GPT2,
        blocks="h.",
        chosen=(0, 3),
        hub_config=_old_dtype,
        hub_state=_gpt2_as_published,
        disposable=(".attn.bias",),
    ),
    Specimen(
        name="gpt_neox",
        model_type="gpt_neox",
        settings={**NEOX, "use_parallel_residual": False},
        blocks="gpt_neox.layers.",
        chosen=(0, 2, 4),
    ),
    Specimen(
        name="gpt_neox_tied",
        model_type="gpt_neox",
        settings={**NEOX, "tie_word_embeddings": True, "attention_bias": False},
        blocks="gpt_neox.layers.",
        chosen=(1, 2, 4),
        dtype="bfloat16",
    ),
    Specimen(
        name="gpt_neox_as_published",
        model_type="gpt_neox",
        settings={
            **NEOX,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}
            | {"partial_rotary_factor": 0.5},
        },
        blocks="gpt_neox.layers.",
        chosen=(0, 3),
        dtype="float16",
        hub_config=_neox_old_config,
        hub_state=_neox_as_published,
        disposable=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    ),
    Specimen(
        name="opt",
        model_type="opt",
        settings=OPT,
        blocks="model.decoder.layers.",
        chosen=(0, 2, 3),
    ),
    Specimen(
        name="opt_projected_post_norm",
        model_type="opt",
        settings={**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        blocks="decoder.layers.",
        chosen=(1, 3),
        hub_config=_old_dtype,
        hub_state=_opt_as_published,
        disposable=("lm_head.weight",),
    ),
    Specimen(
        name="opt_no_final_norm_untied",
        model_type="opt",
        settings={
            **OPT,
            "_remove_final_layer_norm": True,
            "tie_word_embeddings": False,
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
        },
        blocks="model.decoder.layers.",
        chosen=(0, 3),
        dtype="bfloat16",
    ),
]
