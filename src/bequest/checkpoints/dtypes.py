"""The element types of safetensors files: their sizes, their names in torch, their conversion.

Source: the safetensors format and the `Dtype` enumeration of its reference implementation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bequest.errors import InputError

BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, by safetensors dtype."""

OF_TORCH: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
"""Safetensors dtype, by the name that torch gives it."""

CONVERTIBLE: dict[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
}
"""The types that weights can be converted from and to, by the name a user gives."""

_STORED_AS: dict[str, str] = {
    "BOOL": "?",
    "U8": "<u1",
    "I8": "<i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "BF16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "C64": "<c8",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """Return the NumPy type that holds a safetensors dtype's bytes; bfloat16 is held as uint16.

    Raises:
        InputError: NumPy has no type of that width and meaning (8-bit floats and smaller).
    """
    if dtype not in _STORED_AS:
        raise InputError(f"dtype {dtype} has no NumPy counterpart: it can be copied, not computed.")
    return np.dtype(_STORED_AS[dtype])


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor takes in a file.

    Raises:
        InputError: `dtype` is unknown, or its elements do not fill whole bytes.
    """
    if dtype not in BITS:
        raise InputError(f"dtype is {dtype!r}; safetensors knows {', '.join(sorted(BITS))}.")
    bits = BITS[dtype]
    for extent in shape:
        bits *= extent
    if bits % 8:
        raise InputError(f"a tensor of dtype {dtype} and shape {list(shape)} fills no whole bytes.")
    return bits // 8


def is_float(dtype: str) -> bool:
    """Whether elements of a safetensors dtype are real floating-point numbers of 16 bits or more."""
    return dtype in CONVERTIBLE.values()


def convert(values: npt.NDArray[np.generic], source: str, target: str) -> npt.NDArray[np.generic]:
    """Convert floats between float64, float32, float16 and bfloat16, to nearest, ties to even.

    Args:
        values: any shape, of `numpy_dtype(source)`.
        source: safetensors dtype of `values`.
        target: safetensors dtype of the result.

    Returns:
        The same shape, of `numpy_dtype(target)`; overflow gives infinity, as in torch.
    """
    if source == target:
        return values
    if source == "BF16":
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if target != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(numpy_dtype(target))
    wide: npt.NDArray[Any] = values.astype(np.float64 if source == "F64" else np.float32)
    flat = wide.reshape(-1)
    rounded = np.empty(flat.shape, np.uint16)
    with np.errstate(over="ignore"):
        round_to_bfloat16(flat, np.empty((2, *flat.shape), np.float32), rounded)
    return rounded.reshape(values.shape)


def round_to_bfloat16(
    values: npt.NDArray[np.floating[Any]],
    scratch: npt.NDArray[np.float32],
    out: npt.NDArray[np.uint16],
) -> None:
    """Round float64 or float32 to the bits of bfloat16, to nearest-even in one rounding.

    Args:
        values: float64 or float32, shape ``(n,)``.
        scratch: float32, shape ``(2, n)``, overwritten.
        out: uint16, shape ``(n,)``.
    """
    if not len(values):
        return
    narrow, spare = scratch[0], scratch[1].view(np.uint32)
    np.copyto(narrow, values, casting="same_kind")
    bits = narrow.view(np.uint32)
    np.bitwise_and(bits, 0xFFFF, out=spare)
    ties = spare == 0x8000
    # Ties and NaN are rare: looking whether there are any is cheaper than handling none.
    if ties.any():
        _step_off_ties(values, narrow, np.flatnonzero(ties))
    not_numbers = np.isnan(narrow) if np.isnan(narrow.max()) else None
    np.right_shift(bits, 16, out=spare)
    np.bitwise_and(spare, 1, out=spare)
    np.add(bits, 0x7FFF, out=bits)
    np.add(bits, spare, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")
    if not_numbers is not None:
        out[not_numbers] = 0x7FC0


def _step_off_ties(
    values: npt.NDArray[np.floating[Any]],
    narrow: npt.NDArray[np.float32],
    ties: npt.NDArray[np.intp],
) -> None:
    """Move those float32 numbers that lie half-way between two bfloat16 to the true value's side.

    Rounding to float32 first goes wrong only there: when the float64 value is no tie itself.
    """
    bits = narrow.view(np.uint32)
    exact, rounded = np.abs(values[ties]), np.abs(narrow[ties].astype(np.float64))
    bits[ties] += (exact > rounded).astype(np.uint32)
    bits[ties] -= (exact < rounded).astype(np.uint32)
