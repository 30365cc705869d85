"""The one kernel of every average: sum(c[j] * member[j]) in float64, rounded once.

The live average and `bequest average` both call it, which is what makes their bytes equal. It is
NumPy alone: bfloat16, which NumPy lacks, is held as uint16 bits. Each chunk is small enough that
the float64 scratch stays in the caches, and NumPy lets go of the interpreter lock in each of these
operations, so that several threads with an `Accumulator` each run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bequest.checkpoints.dtypes import round_to_bfloat16
from bequest.errors import InputError

Array = NDArray[Any]

_CHUNK = 131_072
"""Elements at a time: two float64 scratch arrays of 1 MiB. One thread alone is as fast with a
quarter of it; two then meet so often at the interpreter's lock that they are no faster than one."""

_BF16 = np.dtype(np.uint16)
_EXPONENT = 0x7F80
"""Bits of a bfloat16 number's exponent: all of them are set in NaN and Inf only."""
_FLOATS = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), _BF16)


class Accumulator:
    """Averages arrays, with the scratch memory of one thread (about 3.3 MB)."""

    def __init__(self) -> None:
        self._sum = np.empty(_CHUNK, np.float64)
        self._term = np.empty(_CHUNK, np.float64)
        self._wide = np.empty((2, _CHUNK), np.float32)
        self._finite = np.empty(_CHUNK, np.bool_)

    def average(self, members: Sequence[Array], coefficients: Sequence[float], out: Array) -> bool:
        """Write ``sum(coefficients[j] * members[j])`` to `out`, summed in the members' order.

        Each element is one float64 sum, from the first member to the last, and one rounding to
        nearest-even; how the caller cuts a tensor into pieces does not change it. Members whose
        coefficient is zero are not read.

        Args:
            members: One tensor, or the same piece of it, of each member, oldest first: one-
                dimensional float64, float32, float16, or uint16 for the bits of bfloat16.
            coefficients: A finite number a member.
            out: One-dimensional and of the members' length; its dtype is the result's.

        Returns:
            Whether every value written is finite: False means that a member held NaN or Inf, or
            that `out`'s dtype cannot hold the average.

        Raises:
            InputError: Lengths or dtypes do not fit.
        """
        _check(members, coefficients, out)
        used = [
            (member, float(c)) for member, c in zip(members, coefficients, strict=True) if c != 0
        ]
        finite = True
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(out), _CHUNK):
                piece = slice(start, min(start + _CHUNK, len(out)))
                total = self._accumulate([(m[piece], c) for m, c in used], piece.stop - start)
                finite &= self._round(total, out[piece])
        return finite

    def _accumulate(self, terms: list[tuple[Array, float]], length: int) -> NDArray[np.float64]:
        total, term = self._sum[:length], self._term[:length]
        if not terms:
            total.fill(0.0)
        for position, (values, coefficient) in enumerate(terms):
            target = term if position else total
            self._widen(values, target)
            np.multiply(target, coefficient, out=target)
            if position:
                np.add(total, term, out=total)
        return total

    def _widen(self, values: Array, target: NDArray[np.float64]) -> None:
        if values.dtype == _BF16:
            values = self._from_bits(values)
        np.copyto(target, values)

    def _from_bits(self, bfloat16: Array) -> Array:
        wide: Array = self._wide[0, : len(bfloat16)]
        bits = wide.view(np.uint32)
        np.copyto(bits, bfloat16)
        np.left_shift(bits, 16, out=bits)
        return wide

    def _round(self, total: NDArray[np.float64], out: Array) -> bool:
        if out.dtype == _BF16:
            round_to_bfloat16(total, self._wide[:, : len(total)], out)
            # A finite sum may round to infinity: the result is judged, by its largest exponent.
            exponents = self._wide[0].view(np.uint16)[: len(out)]
            np.bitwise_and(out, _EXPONENT, out=exponents)
            return bool(exponents.max() != _EXPONENT)
        np.copyto(out, total, casting="same_kind")
        return bool(np.isfinite(out, out=self._finite[: len(total)]).all())


def first_non_finite(members: Sequence[Array]) -> int | None:
    """Return which of the arrays is the first to hold NaN or Inf, or None.

    For the error message: call it on the piece for which `Accumulator.average` returned False.

    Args:
        members: As for `Accumulator.average`.
    """
    for position, values in enumerate(members):
        is_bfloat16 = values.dtype == _BF16
        finite = (values & _EXPONENT) != _EXPONENT if is_bfloat16 else np.isfinite(values)
        if not finite.all():
            return position
    return None


def _check(members: Sequence[Array], coefficients: Sequence[float], out: Array) -> None:
    if len(members) != len(coefficients):
        raise InputError(
            f"members has {len(members)} arrays but coefficients has {len(coefficients)} numbers: "
            "give one number an array."
        )
    for array in (*members, out):
        if array.dtype not in _FLOATS:
            raise InputError(
                f"members has the dtype {array.dtype}: only float64, float32, float16 and uint16 "
                "(the bits of bfloat16) can be averaged."
            )
        if array.shape != (len(out),):
            raise InputError(
                f"members has the shape {array.shape}: all must be ({len(out)},), like the result."
            )
