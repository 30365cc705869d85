"""How much each checkpoint of a window counts in its average.

A coefficient vector ``c`` belongs to a window of ``n`` members, oldest first: every ``c[j] >= 0``
and they sum to one. A spec names the vector; it is one string on the command line and in YAML:

====================  ====================================================================
``uniform``           ``c[j] = 1/n`` (LAWA, arXiv 2306.03241; PMA, arXiv 2505.12082)
``linear``            ``c[j] ~ j+1``: the newest counts most
``ema:0.2``           ``c[j] ~ 0.2 * 0.8**(n-1-j)``: an exponential average over the members
``decay:cosine``      what a learning-rate decay over the window would have given (WSM,
                      arXiv 2507.17634); ``linear``, ``cosine``, ``1-sqrt``, ``inverse-sqrt``
``decay:0.9,0.5``     the same with the decay's own factors, one for each of the n-1 updates
``qam:decay:cosine``  the vector that matches the schedule really being run again
``0.2,0.3,0.5``       the vector itself (in Python and YAML also a list of numbers)
====================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError

Vector = NDArray[np.float64]

_SUM_TOLERANCE = 1e-6

# The factor of an update that lies at `progress` of the way through the window (0 to 1), one of
# `updates` in all. The first member counts as the state before the decay began.
_CURVES: dict[str, Callable[[Vector, int], Vector]] = {
    "linear": lambda progress, updates: 1 - progress,
    "cosine": lambda progress, updates: (1 + np.cos(np.pi * progress)) / 2,
    "1-sqrt": lambda progress, updates: 1 - np.sqrt(progress),
    # lr ~ 1/sqrt(t) with the window's first member at t = 1: it never reaches zero.
    "inverse-sqrt": lambda progress, updates: 1 / np.sqrt(1 + np.arange(1, updates + 1)),
}


def coefficient_vector(spec: str | Sequence[float], members: int) -> Vector:
    """Return the coefficients of `members` checkpoints, oldest first.

    Args:
        spec: One of the forms in this module's table. Named forms fit any number of members;
            numbers fit only as many as they are.
        members: How many checkpoints the window holds, at least 1.

    Returns:
        float64 array of shape ``(members,)``, non-negative, with sum one.

    Raises:
        InputError: The spec is unknown, a number in it is out of range, or their count does not
            fit the window.
    """
    if members < 1:
        raise InputError(f"window is {members}: an average needs at least 1 checkpoint.")
    if not isinstance(spec, str):
        return _given(np.array(spec, dtype=np.float64).reshape(-1), members)
    name, _, rest = spec.strip().partition(":")
    if spec.strip() == "uniform":
        return np.full(members, 1 / members)
    if spec.strip() == "linear":
        return _normalized(np.arange(1, members + 1, dtype=np.float64))
    if name == "ema" and rest:
        return _ema(rest, members)
    if name == "decay" and rest:
        return decay_coefficients(_factors(rest, members - 1))
    if name == "qam" and rest:
        return _quadratic_match(coefficient_vector(rest, members))
    numbers = _numbers(spec)
    if numbers is None:
        raise InputError(
            f"coefficients is {spec!r}: give uniform, linear, ema:ALPHA, decay:CURVE with CURVE "
            f"one of {', '.join(_CURVES)} or numbers, qam:SPEC, or the numbers themselves."
        )
    return _given(numbers, members)


def paper_of(spec: str | Sequence[float]) -> str:
    """Return what an average with these coefficients is cited as, a key of `bequest.papers`."""
    name = spec.strip().partition(":")[0] if isinstance(spec, str) else ""
    # Linear ones and numbers of one's own are LAWA's window of latest checkpoints, too.
    return {"ema": "ema", "decay": "wsm", "qam": "wsm"}.get(name, "lawa")


def decay_coefficients(factors: Sequence[float] | Vector) -> Vector:
    """Return the average that equals scaling the window's updates by a decay's factors.

    With updates ``u_1 .. u_n`` between ``n+1`` checkpoints, ``sum(c[j] * theta_j)`` is
    ``theta_0 + sum(w_j * u_j)`` for ``c[0] = 1 - w_1``, ``c[j] = w_j - w_{j+1}``, ``c[n] = w_n``.

    Args:
        factors: ``w_1 .. w_n``, each update's share of the constant rate: from 1 down to 0, never
            rising. Empty for a window of one checkpoint.

    Raises:
        InputError: A factor lies outside 0 to 1 or is larger than the one before it.

    Source: WSM, arXiv 2507.17634, theorem 3.1.
    """
    steps = np.concatenate(([1.0], np.asarray(factors, dtype=np.float64), [0.0]))
    vector = -np.diff(steps)
    # The comparison refuses NaN too.
    if not (vector >= 0).all():
        listed = ", ".join(f"{factor:g}" for factor in steps[1:-1])
        raise InputError(
            f"coefficients has the decay factors {listed}: they must start at 1 or below, never "
            "rise and never go below 0."
        )
    return vector


def blended(vector: Vector, blend: float) -> Vector:
    """Return the coefficients of ``(1 - blend) * newest + blend * average``.

    Raises:
        InputError: `blend` is not between 0 and 1.
    """
    if not 0 <= blend <= 1:
        raise InputError(f"blend is {blend}: give a share of the average between 0 and 1.")
    mixed = blend * vector
    mixed[-1] += 1 - blend
    return mixed


def _quadratic_match(vector: Vector) -> Vector:
    # Scaling update j by W_j = sum_{i>=j} c_i is what an average does. When the schedule is run
    # again on a quadratic, shortened updates also shorten what follows from them: the product
    # over j of (1 - W_j + W_j t) holds, as its coefficients, the members' true shares.
    polynomial = np.ones(1)
    for factor in np.cumsum(vector[::-1])[::-1][1:]:
        factor = min(factor, 1.0)
        polynomial = np.convolve(polynomial, [1 - factor, factor])
    return _normalized(polynomial)


def _ema(text: str, members: int) -> Vector:
    numbers = _numbers(text)
    if numbers is None or len(numbers) != 1 or not 0 < numbers[0] <= 1:
        raise InputError(
            f"coefficients is 'ema:{text}': give one number above 0 and at most 1, as in ema:0.2."
        )
    return _normalized((1 - numbers[0]) ** np.arange(members - 1, -1, -1, dtype=np.float64))


def _factors(text: str, updates: int) -> Vector:
    if text in _CURVES:
        return _CURVES[text](np.arange(1, updates + 1) / (updates + 1), updates)
    numbers = _numbers(text)
    if numbers is None:
        raise InputError(
            f"coefficients is 'decay:{text}': give a curve ({', '.join(_CURVES)}) or the factors."
        )
    if len(numbers) != updates:
        raise InputError(
            f"coefficients has {len(numbers)} decay factors: a window of {updates + 1} checkpoints "
            f"has {updates} updates, so give {updates}."
        )
    return numbers


def _given(numbers: Vector, members: int) -> Vector:
    if len(numbers) != members:
        raise InputError(
            f"coefficients has {len(numbers)} numbers: the window holds {members} checkpoints, so "
            f"give {members} or a named form such as uniform."
        )
    if not (numbers >= 0).all() or abs(numbers.sum() - 1) > _SUM_TOLERANCE:
        raise InputError(
            f"coefficients has numbers with the minimum {numbers.min():g} and the sum "
            f"{numbers.sum():g}: give numbers from 0 up whose sum is 1."
        )
    return _normalized(numbers)


def _numbers(text: str) -> Vector | None:
    """Read comma-separated numbers, or None when that is not what the text is."""
    try:
        return np.array([float(part) for part in text.strip().strip("[]").split(",")])
    except ValueError:
        return None


def _normalized(vector: Vector) -> Vector:
    normalized: Vector = vector / vector.sum()
    return normalized
