"""Tiny quantized checkpoints, laid out as the packages that write them lay them out on hubs.

The layouts: transformers' `Fp8Dequantize` and `Mxfp4` integrations, bitsandbytes' `QuantState`,
GPTQ's and AWQ's packed integers, compressed-tensors' `pack-quantized`. Of those whose packages the
suite does not have, names, shapes and types are right and the numbers are random.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from zoo import keeper
from zoo.specimen import State

BLOCK = 16
"""Rows and columns that share one scale in the fp8 checkpoint."""
PLAIN = "model.layers.2.mlp.down_proj"
"""The one matrix of a block that was left as it was."""

Quantize = Callable[[str, torch.Tensor], State]


def _integers(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 100, shape, dtype=dtype, generator=generator)


def fp8_matrix(key: str, weight: torch.Tensor) -> State:
    """Blocks of 16 x 16 values in eight bits, each with the factor that gives them back."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)) / 448
    stored = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
    return {f"{key}.weight": stored, f"{key}.weight_scale_inv": scale}


def _bnb4(key: str, weight: torch.Tensor) -> State:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [*weight.shape]}
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return {
        f"{key}.weight": _integers(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{key}.weight.absmax": torch.rand(weight.numel() // 64),
        f"{key}.weight.quant_map": torch.linspace(-1, 1, 16),
        f"{key}.weight.quant_state.bitsandbytes__nf4": text,
    }


def _bnb8(key: str, weight: torch.Tensor) -> State:
    scale = weight.abs().amax(1)
    stored = (weight / scale[:, None] * 127).round().to(torch.int8)
    return {f"{key}.weight": stored, f"{key}.SCB": scale}


def _gptq(key: str, weight: torch.Tensor) -> State:
    rows, columns = weight.shape
    return {
        f"{key}.qweight": _integers(columns // 8, rows),
        f"{key}.qzeros": _integers(1, rows // 8),
        f"{key}.scales": torch.rand(1, rows),
        f"{key}.g_idx": torch.zeros(columns, dtype=torch.int32),
    }


def _awq(key: str, weight: torch.Tensor) -> State:
    rows, columns = weight.shape
    return {
        f"{key}.qweight": _integers(columns, rows // 8),
        f"{key}.qzeros": _integers(1, rows // 8),
        f"{key}.scales": torch.rand(1, rows),
    }


def _packed(key: str, weight: torch.Tensor) -> State:
    rows, columns = weight.shape
    return {
        f"{key}.weight_packed": _integers(rows, columns // 8),
        f"{key}.weight_scale": torch.rand(rows, 1),
        f"{key}.weight_shape": torch.tensor([rows, columns]),
    }


_GROUP: dict[str, Any] = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"},
}
LAYOUTS: dict[str, tuple[Quantize, str, dict[str, Any]]] = {
    "fp8": (
        fp8_matrix,
        "modules_to_not_convert",
        {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]},
    ),
    "bitsandbytes_4bit": (
        _bnb4,
        "llm_int8_skip_modules",
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    ),
    "bitsandbytes_8bit": (_bnb8, "llm_int8_skip_modules", {"load_in_8bit": True}),
    "gptq": (_gptq, "modules_to_not_convert", {"quant_method": "gptq", "bits": 4}),
    "awq": (
        _awq,
        "modules_to_not_convert",
        {"quant_method": "awq", "bits": 4, "version": "gemm", "group_size": 32},
    ),
    "compressed_tensors": (
        _packed,
        "ignore",
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.9.0"}
        | {"config_groups": {"group_0": _GROUP}},
    ),
}
"""By layout: how a matrix is stored, the field that lists what was not, and the other fields."""


def write(layout: str, target: Path) -> str:
    """Write a llama of four blocks, quantized but for one matrix of block 2; return the list's name."""
    quantize, field, fields = LAYOUTS[layout]
    keeper.copy("llama", target)
    state: State = {}
    for key, tensor in load_file(target / "model.safetensors").items():
        module = key.removesuffix(".weight")
        matrix = "_proj" in module and tensor.ndim == 2 and module != PLAIN
        state |= quantize(module, tensor) if matrix else {key: tensor}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    skipped = ["lm_head", PLAIN]
    keeper.edit_config(target, quantization_config={**fields, field: skipped})
    return field


def mxfp4_matrix(key: str, weight: torch.Tensor) -> State:
    """Experts [experts, columns, rows] as pairs of four bits in groups of 32 with an exponent."""
    experts, columns, rows = weight.shape
    return {
        f"{key}_blocks": _integers(experts, rows, columns // 32, 16, dtype=torch.uint8),
        f"{key}_scales": _integers(experts, rows, columns // 32, dtype=torch.uint8) + 100,
    }
