"""A window's members, opened, and held to be one model at different steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.checkpoints import dtypes
from bequest.checkpoints.formats import Weights
from bequest.checkpoints.pieces import OpenFiles, StoredTensor, read_elements
from bequest.errors import InputError, UnsupportedModelError

_COMPARED_ELEMENTS = 1 << 20
_NOT_THE_MODEL = {
    "_commit_hash",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    # What PEFT notes of how an adapter was made.
    "inference_mode",
    "peft_version",
    "revision",
}
"""Configuration fields that may differ between checkpoints of one model; the tensors tell dtypes."""
_SETS = {"target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"}
"""Fields that PEFT keeps as sets: it writes them in an order that is another in each process."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One checkpoint of a window."""

    weights: Weights
    """Its tensors and configuration."""
    step: int | None
    """Its step, where the name tells one."""


def require_alike(members: Sequence[Member], *, dtype: str | None) -> None:
    """Refuse members that are not the same model as the newest, naming the first difference.

    Args:
        members: oldest first.
        dtype: the result's; without one, members must agree in theirs.

    Raises:
        InputError: forms, keys, shapes, dtypes or configurations differ.
        UnsupportedModelError: a tensor is of a dtype that cannot be averaged.
    """
    newest = members[-1].weights
    for tensor in newest.tensors.values():
        if tensor.dtype.startswith("F") and not dtypes.is_float(tensor.dtype):
            raise UnsupportedModelError(
                f"{newest.name} is quantized (tensor {tensor.name!r} is {tensor.dtype}); average "
                "the unquantized checkpoints and quantize the result."
            )
        if tensor.dtype.startswith("C"):
            raise UnsupportedModelError(
                f"{newest.name} has the complex tensor {tensor.name!r}, which bequest does not "
                "average."
            )
    if newest.config.get("quantization_config"):
        raise UnsupportedModelError(
            f"{newest.name} is quantized (quantization_config in {newest.config_file}); average the "
            "unquantized checkpoints and quantize the result."
        )
    for member in members[:-1]:
        difference = _difference(member.weights, newest, dtype)
        if difference:
            raise InputError(
                f"{member.weights.name} and {newest.name} are not checkpoints of one model: "
                f"{difference}."
            )


def _difference(older: Weights, newest: Weights, dtype: str | None) -> str | None:
    if older.format != newest.format:
        return f"their forms are {older.format} and {newest.format}"
    for name, tensor in newest.tensors.items():
        other = older.tensors.get(name)
        if other is None:
            return f"the older one lacks tensor {name!r}"
        if other.shape != tensor.shape:
            return f"tensor {name!r} has the shapes {list(other.shape)} and {list(tensor.shape)}"
        both_floats = dtypes.is_float(other.dtype) and dtypes.is_float(tensor.dtype)
        if other.dtype != tensor.dtype and not (both_floats and dtype is not None):
            advice = "; give --dtype to average them all the same" if both_floats else ""
            return f"tensor {name!r} is {other.dtype} and {tensor.dtype}{advice}"
    extra = next((name for name in older.tensors if name not in newest.tensors), None)
    if extra is not None:
        return f"the newer one lacks tensor {extra!r}"
    field = _first_field(older.config, newest.config)
    if field is not None:
        path, old, new = field
        return f"{newest.config_file} has {path} = {_shown(old)} and {_shown(new)}"
    return None


def _first_field(old: Any, new: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Find the first field that differs, in nested configurations too."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return None if old == new else (path, old, new)
    for key in (*new, *(key for key in old if key not in new)):
        if key in _NOT_THE_MODEL:
            continue
        inner = f"{path}.{key}" if path else str(key)
        if key not in old or key not in new:
            return (inner, old.get(key, "nothing"), new.get(key, "nothing"))
        values = (old[key], new[key])
        if key in _SETS and all(isinstance(value, list) for value in values):
            if set(old[key]) != set(new[key]):
                return (inner, *values)
            continue
        found = _first_field(*values, inner)
        if found is not None:
            return found
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require_ties_kept(
    newest: Weights, config: Mapping[str, Any], vectors: Mapping[str, object]
) -> None:
    """Refuse exclusions that would take one of two tied copies from the newest and average the other.

    Args:
        newest: the newest member.
        config: the result's configuration.
        vectors: what each tensor is made with.

    Raises:
        InputError: the configuration ties the embeddings, both copies are stored, and they would
            come out different.
    """
    text = config.get("text_config", config)
    if not (config.get("tie_word_embeddings") or text.get("tie_word_embeddings")):
        return
    rows = text.get("vocab_size")
    copies = [t for t in newest.tensors.values() if len(t.shape) == 2 and t.shape[0] == rows]
    for first, second in itertools.combinations(copies, 2):
        if vectors[first.name] != vectors[second.name] and _same_values(first, second):
            raise InputError(
                f"exclude matches only one of {first.name!r} and {second.name!r}, which are tied; "
                "let it match both or neither."
            )


def _same_values(first: StoredTensor, second: StoredTensor) -> bool:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    dtype = dtypes.numpy_dtype(first.dtype)
    with OpenFiles() as files:
        for start in range(0, first.num_elements, _COMPARED_ELEMENTS):
            count = min(_COMPARED_ELEMENTS, first.num_elements - start)
            values = [np.empty(count, dtype), np.empty(count, dtype)]
            for tensor, out in zip((first, second), values, strict=True):
                read_elements(tensor, start, out, files)
            if values[0].tobytes() != values[1].tobytes():
                return False
    return True
