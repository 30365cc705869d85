"""Quantized checkpoints: the block numbers in their configuration, and how their cut is judged.

A quantized block is copied as any other: its scales and zero points are tensors of the block. Two
things are of their own. The configuration may name modules by their block's number, such as those
that were left as they were. And the packages that read the layouts may be absent, or want a GPU; so
the result is judged as the unquantized model that it stands for (`standing_for`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bequest.checkpoints.checkpoint import map_tensor
from bequest.checkpoints.header import TensorEntry
from bequest.checkpoints.shards import PlannedTensor, TensorSpec
from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import BlockNames, is_tower

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
_PATTERN = re.compile(r"[*+?\[\](){}|^$\\]")
"""What makes an entry a pattern and not a name. A dot stands in both."""


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


def cut_quantization(
    quantization: Mapping[str, Any],
    blocks: BlockNames,
    selection: Sequence[int],
    names: Iterable[str],
    *,
    model: str,
) -> dict[str, Any]:
    """Return a quantization configuration in which the names of blocks follow a selection.

    In lists (`modules_to_not_convert`, `llm_int8_skip_modules`, `ignore`, `targets`, ...) plain
    names are renumbered, or go with their block. Patterns stay, and must mean the same modules.

    Args:
        quantization: the source's, from `quantization_of`.
        blocks: how the checkpoint names its blocks.
        selection: the blocks that are kept, in increasing order.
        names: the source's keys.
        model: the checkpoint's name, for messages.

    Raises:
        UnsupportedModelError: an entry names blocks in a way that cannot follow the selection.
    """
    modules = {place for name in names for place in _modules(name, blocks)}
    follower = _Follower(blocks, tuple(selection), tuple(sorted(modules)), model)
    return {key: follower.follow(value, f"{FIELD}.{key}") for key, value in quantization.items()}


def _modules(name: str, blocks: BlockNames) -> Iterable[tuple[int, str]]:
    """The modules of a block that a key lies in, innermost last."""
    place = blocks.split(name)
    if place is None:
        return
    yield place[0], ""
    parts = place[1].split(".")
    for count in range(1, len(parts)):
        yield place[0], ".".join(parts[:count])


@dataclass(frozen=True)
class _Follower:
    blocks: BlockNames
    selection: tuple[int, ...]
    modules: tuple[tuple[int, str], ...]
    model: str

    def follow(self, value: Any, field: str) -> Any:
        if isinstance(value, dict):
            for key in value:
                self._refuse_number(key, field)
            return {key: self.follow(inner, f"{field}.{key}") for key, inner in value.items()}
        if isinstance(value, list):
            followed = [
                self._entry(item, field) if isinstance(item, str) else self.follow(item, field)
                for item in value
            ]
            return [item for item in followed if item is not None]
        if isinstance(value, str):
            self._refuse_number(value, field)
        return value

    @property
    def _list_name(self) -> str:
        return re.escape(self.blocks.prefix.rstrip(".").rpartition(".")[2])

    def _entry(self, entry: str, field: str) -> str | None:
        """A list's entry in the result; None for one that goes with its block."""
        if entry.startswith("re:") or _PATTERN.search(entry):
            self._check_pattern(entry, field)
            return entry
        found = re.search(rf"(?:^|\.){self._list_name}\.(\d+)(?=\.|$)", entry)
        if found is None:
            if entry[:1].isdigit():
                raise self._unknown(entry, field)
            return entry
        prefix, rest = entry[: found.start(1)], entry[found.end(1) :]
        if not self._is_decoder(prefix):
            if is_tower(prefix):
                return entry
            raise self._unknown(entry, field)
        number = int(found[1])
        if number not in self.selection:
            return None
        return f"{prefix}{self.selection.index(number)}{rest}"

    def _is_decoder(self, prefix: str) -> bool:
        own, other = f".{self.blocks.prefix}", f".{prefix}"
        nested = ".language_model."  # a checkpoint's keys and its modules order the two differently
        return own.endswith(other) or other.endswith(own) or (nested in own and nested in other)

    def _check_pattern(self, pattern: str, field: str) -> None:
        """Refuse a pattern that means other modules once the blocks have other numbers."""
        prefix = self.blocks.prefix
        seen = False
        try:
            for number, rest in self.modules:
                path = f".{rest}" if rest else ""
                before = _matches(pattern, f"{prefix}{number}{path}")
                seen |= before
                if number not in self.selection:
                    continue
                after = _matches(pattern, f"{prefix}{self.selection.index(number)}{path}")
                if before != after:
                    raise self._unknown(pattern, field)
        except re.error as error:
            raise self._unknown(pattern, field) from error
        if not seen:
            self._refuse_number(pattern, field)

    def _refuse_number(self, text: Any, field: str) -> None:
        if isinstance(text, str) and re.search(rf"\b{self._list_name}\b\D*\d", text):
            raise self._unknown(text, field)

    def _unknown(self, entry: str, field: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.model}: config.json field {field!r} names blocks as {entry!r}, which cannot "
            "follow this selection; keep the first blocks, or cut the unquantized model."
        )


def _matches(pattern: str, name: str) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    if pattern.startswith("re:"):  # compressed-tensors
        return re.match(pattern.removeprefix("re:"), name) is not None
    return not should_convert_module(name, [pattern])


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
