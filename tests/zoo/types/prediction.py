"""Multi-token-prediction blocks as hubs hold them: numbered on behind the decoder's, or under `mtp`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NEXTN = "num_nextn_predict_layers"
NUMBERED = {
    **dict.fromkeys(
        ["deepseek_v3", "deepseek_v32", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "solar_open"],
        NEXTN,
    ),
    **dict.fromkeys(["bailing_hybrid", "hy_v3", "sarvam_mla", "sarvam_moe", "dots3_note"], NEXTN),
}
"""Types whose prediction block is numbered as the one after the last, and the field that counts it."""
NAMED: dict[str, tuple[str, str | None]] = {
    "deepseek_v4": ("mtp.0", NEXTN),
    "ernie4_5_moe": ("model.mtp_block.0", NEXTN),
    "exaone_moe": ("mtp.layers.0", None),
    "hy_v4": ("model.mtp_layers.0", NEXTN),
    "inkling_text": ("model.mtp.layers.0", "num_mtp_layers"),
    "longcat_flash": ("model.mtp.layers.0", None),
    "mellum": ("mtp.layers.0", NEXTN),
    "mimo_v2_flash": ("model.mtp.layers.0", None),
    "minimax_m3_vl_text": ("mtp.layers.0", "num_mtp_modules"),
    "nemotron_h": ("mtp.layers.0", NEXTN),
    "olmo_hybrid": ("mtp.layers.0", None),
    "qwen3_5": ("mtp.layers.0", "mtp_num_hidden_layers"),
    "qwen3_5_moe": ("mtp.layers.0", "mtp_num_hidden_layers"),
    "qwen3_5_moe_text": ("mtp.layers.0", "mtp_num_hidden_layers"),
    "qwen3_5_text": ("mtp.layers.0", None),
    "qwen3_next": ("mtp.layers.0", None),
    "qwen4_exp": ("mtp.layers.0", None),
    "qwen4_exp_text": ("mtp.layers.0", None),
}
"""Types whose prediction block has a name of its own, and the field that counts it, if any does."""


def add(model_type: str, folder: Path, prefix: str, depth: int) -> frozenset[str]:
    """Give a checkpoint a prediction block, a copy of its last one; return the new keys.

    Args:
        model_type: the type; nothing is done for one that has no prediction blocks.
        folder: the checkpoint, of one file.
        prefix: what stands before a block's number.
        depth: blocks of the decoder.
    """
    if model_type in NUMBERED:
        place, field = f"{prefix}{depth}", NUMBERED[model_type]
    elif model_type in NAMED:
        place, named = NAMED[model_type]
        field = named or ""
    else:
        return frozenset()
    file = folder / "model.safetensors"
    state = load_file(file)
    last = f"{prefix}{depth - 1}."
    added = {
        f"{place}.{key.removeprefix(last)}": tensor.clone()
        for key, tensor in state.items()
        if key.startswith(last)
    }
    added |= {f"{place}.{name}.weight": torch.ones(32) for name in ("enorm", "hnorm")}
    added[f"{place}.eh_proj.weight"] = torch.ones(32, 64)
    save_file(state | added, file, metadata={"format": "pt"})
    if field:
        config = json.loads((folder / "config.json").read_text())
        config.get("text_config", config)[field] = 1
        (folder / "config.json").write_text(json.dumps(config))
    return frozenset(added)
