"""Quantized checkpoints: which are cut, and how their cut is judged.

A quantized block is copied as any other: its scales and zero points are tensors of the block. Two
things are of their own. The configuration may name modules by their block's number, such as those
that were left as they were (`quantized_names`). And the packages that read the layouts may be absent,
or want a GPU; so the result is judged as the unquantized model that it stands for (`standing_for`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bequest.checkpoints.checkpoint import map_tensor
from bequest.checkpoints.header import TensorEntry
from bequest.checkpoints.shards import PlannedTensor, TensorSpec
from bequest.errors import UnsupportedModelError

FIELD = "quantization_config"
_BNB = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_BNB_STATES = tuple(f".quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
_SCALES = (".weight_scale", ".weight_scale_inv", ".input_scale", ".activation_scale")
BESIDE: dict[str, tuple[str, ...]] = {
    "awq": (".qzeros", ".scales"),
    "bitsandbytes": (*_BNB, *_BNB_STATES, ".SCB", ".weight_format"),
    "compressed-tensors": tuple(
        f".{of}_{what}"
        for of in ("weight", "input", "output")
        for what in ("scale", "zero_point", "global_scale", "g_idx", "shape")
    ),
    "fp8": (*_SCALES, "_scale_inv", ".scale"),
    "gptq": (".qzeros", ".scales", ".g_idx"),
    "mxfp4": ("_scales",),
}
"""By `quant_method`, the endings of the tensors that stand beside a quantized weight."""
_OWNERS = ("", ".weight", ".qweight", ".weight_packed", "_blocks")
"""What a weight may be called, whose name without it begins the names of the tensors beside it."""


def quantization_of(config: Mapping[str, Any], *, model: str) -> Mapping[str, Any] | None:
    """Return a model's quantization, or None; refuse a layout that bequest does not know.

    Args:
        config: the parsed `config.json`.
        model: the checkpoint's name, for messages.

    Raises:
        UnsupportedModelError: it is quantized in a way that cannot be cut correctly.
    """
    for field, value in config.items():
        if isinstance(value, dict) and value.get(FIELD):
            raise UnsupportedModelError(
                f"{model} states its quantization inside config.json field {field!r}; bequest cuts "
                f"models that state it in {FIELD} at the top."
            )
    if config.get("compression_config"):
        raise UnsupportedModelError(
            f"{model} is quantized (compression_config in config.json, an older name); cut the "
            "unquantized model and quantize the result."
        )
    quantization = config.get(FIELD)
    if quantization is None:
        return None
    method = method_of(quantization) if isinstance(quantization, dict) else quantization
    if not isinstance(quantization, dict) or method not in BESIDE:
        raise UnsupportedModelError(
            f"{model} is quantized ({FIELD} in config.json) with {method!r}, and bequest cuts "
            f"{', '.join(BESIDE)} only; cut the unquantized model and quantize the result."
        )
    return quantization


def require_unquantized(config: Mapping[str, Any], *, model: str, what: str) -> None:
    """Refuse a quantized model where more is asked than copying its blocks.

    Raises:
        UnsupportedModelError: it is quantized.
    """
    if quantization_of(config, model=model) is not None:
        raise UnsupportedModelError(
            f"{model} is quantized ({FIELD} in config.json), which excludes {what}; use the "
            "unquantized model and quantize the result."
        )


def method_of(quantization: Mapping[str, Any]) -> Any:
    """Return the `quant_method`; bitsandbytes' first configurations left it out."""
    older = quantization.get("load_in_8bit") or quantization.get("load_in_4bit")
    return quantization.get("quant_method", "bitsandbytes" if older else None)


def standing_for(
    tensors: Sequence[PlannedTensor], quantization: Mapping[str, Any]
) -> list[TensorSpec]:
    """Return the tensors of the unquantized model that a quantized one stands for.

    Weights take the shape that their packed form unpacks to; the tensors beside them go. What is
    beside no weight stays, so that the loader refuses it.

    Args:
        tensors: every tensor of the quantized model.
        quantization: its configuration.
    """
    method = str(method_of(quantization))
    by_name = {tensor.name: tensor for tensor in tensors}
    result = []
    for tensor in tensors:
        if _is_beside(tensor.name, method, by_name):
            continue
        name, shape = _unpacked(tensor, by_name, method, quantization)
        result.append(TensorSpec(name=name, dtype="BF16", shape=shape))
    return result


def _is_beside(name: str, method: str, by_name: Mapping[str, PlannedTensor]) -> bool:
    for ending in BESIDE[method]:
        if name.endswith(ending):
            owners = {name.removesuffix(ending) + owner for owner in _OWNERS}
            return bool(owners & by_name.keys())
    return False


def _unpacked(
    tensor: PlannedTensor,
    by_name: Mapping[str, PlannedTensor],
    method: str,
    quantization: Mapping[str, Any],
) -> tuple[str, tuple[int, ...]]:
    name, shape = tensor.name, tensor.shape
    stem, _, last = name.rpartition(".")
    if last == "qweight" and len(shape) == 2:
        values = 32 // int(quantization.get("bits", 4))
        rows, columns = shape
        if method == "gptq":
            rows = rows * 32 // int(quantization.get("bits", 4))
        else:
            columns *= values
        return f"{stem}.weight", (columns, rows)
    if last == "weight_packed":
        stated = by_name.get(f"{stem}.weight_shape")
        if stated is not None:
            return f"{stem}.weight", tuple(int(extent) for extent in _values(stated))
        return f"{stem}.weight", (*shape[:-1], 2 * shape[-1])  # four bits in pairs
    if method == "mxfp4" and name.endswith("_blocks") and len(shape) == 4:
        experts, rows, groups, pairs = shape
        return name.removesuffix("_blocks"), (experts, groups * pairs * 2, rows)
    for ending in _BNB_STATES:
        state = by_name.get(name + ending)
        if method == "bitsandbytes" and state is not None:
            stated_shape = json.loads(bytes(_values(state)))["shape"]
            return name, tuple(int(extent) for extent in stated_shape)
    return name, shape


def _values(tensor: PlannedTensor) -> Any:
    assert isinstance(tensor.source, TensorEntry)  # a quantized model's tensors are copied
    return map_tensor(tensor.source)
