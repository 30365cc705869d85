"""The kernel against a slow reference: Python floats one by one, and exact fractions to round."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import bequest
from bequest.averaging.accumulate import Accumulator, first_non_finite
from bequest.averaging.coefficients import coefficient_vector
from bequest.checkpoints.dtypes import round_to_bfloat16
from bequest.errors import InputError

DTYPES = [np.float64, np.float32, np.float16, np.uint16]
# Mantissa bits, the exponent of the smallest normal number, and of the largest one.
FORMATS = {
    np.dtype(np.float32): (23, -126, 127),
    np.dtype(np.float16): (10, -14, 15),
    np.dtype(np.uint16): (7, -126, 127),
}


def round_exactly(value: float, dtype: Any) -> float:
    """Round a float64 to nearest-even in `dtype` with fractions, by the definition."""
    dtype = np.dtype(dtype)
    if dtype == np.float64 or value == 0 or not math.isfinite(value):
        return value
    mantissa, smallest, largest = FORMATS[dtype]
    exponent = max(math.frexp(value)[1] - 1, smallest)
    step = Fraction(2) ** (exponent - mantissa)
    rounded = round(Fraction(value) / step) * step  # Fraction rounds halves to even
    if abs(rounded) >= Fraction(2) ** (largest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def to_floats(array: NDArray[Any]) -> list[float]:
    if array.dtype == np.uint16:
        return [struct.unpack("<f", struct.pack("<I", int(b) << 16))[0] for b in array]
    return [float(value) for value in array]


def reference(members: list[NDArray[Any]], c: NDArray[np.float64], dtype: Any) -> list[float]:
    columns = [to_floats(member) for member in members]
    results = []
    for values in zip(*columns, strict=True):
        total = None
        for value, coefficient in zip(values, c, strict=True):
            if coefficient != 0:
                term = value * float(coefficient)
                total = term if total is None else total + term
        results.append(round_exactly(0.0 if total is None else total, dtype))
    return results


def random_member(rng: np.random.Generator, length: int, dtype: Any) -> NDArray[Any]:
    values = rng.normal(size=length) * 2.0 ** rng.integers(-12, 8, size=length)
    if dtype == np.uint16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def same(out: NDArray[Any], expected: list[float]) -> None:
    assert [v.hex() for v in to_floats(out)] == [v.hex() for v in expected]


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("in_dtype", DTYPES)
@pytest.mark.parametrize("spec", ["uniform", "decay:1-sqrt", "ema:1"])
def test_equal_to_the_reference_in_every_bit(in_dtype: Any, out_dtype: Any, spec: str) -> None:
    rng = np.random.default_rng(7)
    members = [random_member(rng, 2000, in_dtype) for _ in range(5)]
    out = np.empty(2000, out_dtype)
    c = coefficient_vector(spec, 5)
    assert Accumulator().average(members, c, out)
    same(out, reference(members, c, out_dtype))


def test_pieces_and_threads_change_no_bit() -> None:
    rng = np.random.default_rng(3)
    length = 300_001  # more than two chunks, the last one short
    members = [random_member(rng, length, np.float32) for _ in range(3)]
    c = coefficient_vector("linear", 3)
    whole = np.empty(length, np.float32)
    assert Accumulator().average(members, c, whole)
    plain = members[0].astype(np.float64) * c[0]
    for member, coefficient in zip(members[1:], c[1:], strict=True):
        plain = plain + member.astype(np.float64) * coefficient
    np.testing.assert_array_equal(whole, plain.astype(np.float32))

    cut = np.empty(length, np.float32)

    def half(piece: slice) -> bool:
        return Accumulator().average([m[piece] for m in members], c, cut[piece])

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(half, [slice(0, 100_003), slice(100_003, None)]))
    np.testing.assert_array_equal(whole, cut)


def test_mixed_dtypes_and_zero_coefficients() -> None:
    members = [
        np.array([np.nan, np.inf], np.float32),
        np.array([1.0, 3.0], np.float16),
        np.array([0x3F80, 0x4040], np.uint16),
    ]
    out = np.empty(2, np.float32)
    assert Accumulator().average(members, [0.0, 0.5, 0.5], out)
    assert out.tolist() == [1.0, 3.0]


interesting = st.one_of(
    st.floats(width=64, allow_nan=False),
    # The values around a tie of bfloat16 or float16, off by far less than float32 can tell.
    st.builds(
        lambda bits, nudge: struct.unpack("<f", struct.pack("<I", bits))[0] * (1 + nudge),
        st.integers(0, 0x7F7F).map(lambda high: (high << 16) | 0x8000),
        st.sampled_from([0.0, 2.0**-40, -(2.0**-40), 2.0**-52]),
    ),
    st.builds(
        lambda m, e, nudge: (m + 0.5) * 2.0**e * (1 + nudge),
        st.integers(0, 2047),
        st.integers(-30, 6),
        st.sampled_from([0.0, 2.0**-40, -(2.0**-40)]),
    ),
)


@given(st.lists(interesting, min_size=1, max_size=30), st.sampled_from(DTYPES))
def test_one_rounding_to_nearest_even(values: list[float], dtype: Any) -> None:
    member = np.array(values, np.float64)
    out = np.empty(len(values), dtype)
    finite = Accumulator().average([member], [1.0], out)
    expected = [round_exactly(value, dtype) for value in values]
    same(out, expected)
    assert finite == all(math.isfinite(value) for value in expected)


def test_bfloat16_of_every_tie_is_even() -> None:
    ties = ((np.arange(0x7F80, dtype=np.uint32) << 16) | 0x8000).view(np.float32)
    out = np.empty(len(ties), np.uint16)
    round_to_bfloat16(ties.astype(np.float64), np.empty((2, len(ties)), np.float32), out)
    assert (out % 2 == 0).all()
    assert (np.abs(out.astype(int) - np.arange(0x7F80)) <= 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_non_finite_members_are_seen_and_named(dtype: Any, bad: float) -> None:
    members = [np.zeros(140_000, np.float32) for _ in range(3)]
    members[1][139_999] = bad
    out = np.empty(140_000, dtype)
    assert not Accumulator().average(members, [0.2, 0.3, 0.5], out)
    assert first_non_finite(members) == 1
    written = to_floats(out)[-1]
    assert math.isnan(written) if math.isnan(bad) else written == bad
    assert to_floats(out)[:-1] == [0.0] * 139_999


def test_bfloat16_bits_that_are_not_finite() -> None:
    members = [np.array([0x3F80], np.uint16), np.array([0x7FFF], np.uint16)]
    out = np.empty(1, np.uint16)
    assert not Accumulator().average(members, [0.5, 0.5], out)
    assert math.isnan(to_floats(out)[0])
    assert first_non_finite(members) == 1
    assert first_non_finite(members[:1]) is None


def test_an_average_too_large_for_the_dtype_is_not_finite() -> None:
    for dtype, large in ((np.float16, 1e6), (np.float32, 1e39), (np.uint16, 3.4e38)):
        out = np.empty(1, dtype)
        assert not Accumulator().average([np.array([large])], [1.0], out)


def test_what_does_not_fit_is_refused() -> None:
    ok = np.zeros(3, np.float32)
    for members, c, said in [
        ([ok, ok], [1.0], "2 arrays"),
        ([np.zeros(2, np.float32)], [1.0], r"shape \(2,\)"),
        ([np.zeros(3, np.int64)], [1.0], "int64"),
    ]:
        with pytest.raises(InputError, match=said):
            Accumulator().average(members, c, np.empty(3, np.float32))


def test_averaging_needs_no_torch() -> None:
    code = (
        "import sys, bequest.averaging.coefficients, bequest.averaging.accumulate, "
        "bequest.averaging.mixture; assert 'torch' not in sys.modules"
    )
    source = str(Path(bequest.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})
