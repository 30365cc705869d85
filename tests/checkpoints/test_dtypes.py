"""Conversions of floats, held to torch and to exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bequest.checkpoints import dtypes
from bequest.errors import InputError

NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def as_torch(values: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(values.copy())
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
@given(numbers=st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_conversion_agrees_with_torch(source: str, target: str, numbers: list[float]) -> None:
    start = torch.tensor(numbers, dtype=torch.float64).to(NAMES[source])
    held = start.view(torch.uint16) if source == "BF16" else start
    ours = as_torch(dtypes.convert(held.numpy(), source, target), target)
    torch.testing.assert_close(ours, start.to(NAMES[target]), rtol=0, atol=0, equal_nan=True)


@given(st.floats(min_value=-1e38, max_value=1e38, width=64))
def test_float64_to_bfloat16_rounds_once(number: float) -> None:
    """The nearest bfloat16 by exact arithmetic, ties to even: no second rounding by float32."""
    bits = int(dtypes.convert(np.array([number]), "F64", "BF16")[0])
    neighbours = [b for b in (bits - 1, bits, bits + 1) if 0 <= b <= 0xFFFF and b & 0x7FFF < 0x7F80]
    distance = {b: abs(Fraction(number) - Fraction(value_of(b))) for b in neighbours}
    nearest = min(distance.values())
    assert distance[bits] == nearest
    ties = [b for b in neighbours if distance[b] == nearest and value_of(b) != value_of(bits)]
    assert not ties or bits % 2 == 0


def value_of(bits: int) -> float:
    return float(np.array([bits << 16], np.uint32).view(np.float32)[0])


def test_a_number_that_two_roundings_would_get_wrong() -> None:
    # Just above the middle of 1 and the next bfloat16; float32 would round it to the middle.
    number = 1 + 2.0**-8 + 2.0**-40
    assert value_of(int(dtypes.convert(np.array([number]), "F64", "BF16")[0])) == 1 + 2.0**-7
    assert torch.tensor(number).to(torch.bfloat16).item() == 1


@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_not_a_number_and_infinity_stay(target: str) -> None:
    ours = as_torch(dtypes.convert(np.array([np.nan, np.inf, -np.inf]), "F64", target), target)
    assert ours.isnan().tolist() == [True, False, False]
    assert ours[1:].tolist() == [np.inf, -np.inf]


def test_sizes() -> None:
    assert dtypes.num_bytes("F4", (3, 2)) == 3
    assert dtypes.num_bytes("BF16", ()) == 2
    assert dtypes.num_bytes("F8_E4M3", (0, 7)) == 0
    with pytest.raises(InputError, match="whole bytes"):
        dtypes.num_bytes("F4", (3,))
    with pytest.raises(InputError, match="'F5'"):
        dtypes.num_bytes("F5", (8,))
    with pytest.raises(InputError, match="F8_E4M3"):
        dtypes.numpy_dtype("F8_E4M3")
