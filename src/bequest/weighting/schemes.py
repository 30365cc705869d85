"""FLOW's weights and its static relatives: what the pre-trained model finds easy weighs more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bequest.errors import InputError

Scheme = Literal["flow", "flow-token", "stm", "uniform"]
SCHEMES: tuple[Scheme, ...] = ("flow", "flow-token", "stm", "uniform")
TOKEN_SCHEMES: tuple[Scheme, ...] = ("flow-token", "stm")
"""The schemes that weigh each token by itself."""

STM_THRESHOLD = 0.4
"""Probability above which selective token masking keeps a token (arXiv 2501.14315)."""

Weights32 = NDArray[np.float32]


def flow_weights(losses: ArrayLike, temperature: str | float = "median") -> Weights32:
    """Weigh samples, or tokens, by `exp(-loss / temperature)`.

    With any weights f and temperature tau the result, divided by its sum, is the pi of the simplex
    that minimises `sum pi f + tau sum pi log pi`. The weights are not divided by their sum.

    Args:
        losses: the N losses under the pre-trained model, in nats; taken as float32. For samples,
            the mean over the response tokens. A loss that is not finite weighs 0.
        temperature: in nats, above 0; "median" is NumPy's median of the finite losses, so that the
            median sample weighs 1/e.

    Returns:
        N weights, float32.

    Raises:
        InputError: `losses` are not one row of numbers or none of them is finite, or the
            temperature is not above 0.

    Source: FLOW, arXiv 2502.02797, Algorithm 1 and its released code.
    """
    return _exponential(_as_losses(losses), _temperature(losses, temperature))


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """What a scheme gives the samples of a data set."""

    samples: Weights32
    """A weight a sample; under a scheme of token weights the mean of its tokens' weights."""
    tokens: Sequence[Weights32] | None
    """Under a scheme of token weights, those of each sample's response tokens; else None."""
    temperature: float | None
    """The temperature that was used, in nats; None where the scheme has none."""


def weigh(
    scheme: Scheme,
    losses: ArrayLike,
    token_losses: Sequence[NDArray[np.float32]] | None = None,
    temperature: str | float | None = None,
) -> Weights:
    """Weigh a data set's samples by a scheme.

    `flow`: `flow_weights` of the samples' mean losses. `flow-token`: the same of the token losses,
    "median" being that of all response tokens. `stm`: 1 for a token whose probability was above
    0.4, else 0. `uniform`: 1. Samples without a response token and losses that are not finite weigh
    0 in all of them.

    Args:
        scheme: one of `SCHEMES`.
        losses: N mean losses, in nats; NaN for a sample without a response token.
        token_losses: for each sample the losses of its response tokens; needed by token schemes.
        temperature: for the two flow schemes, as for `flow_weights`; None means "median".

    Raises:
        InputError: the scheme is unknown, gets a temperature it has no use for or lacks its token
            losses, or `flow_weights` refuses them.
    """
    check_scheme(scheme, temperature)
    samples = _as_losses(losses)
    wanted = "median" if temperature is None else temperature
    if scheme == "flow":
        used = _temperature(samples, wanted)
        return Weights(samples=_exponential(samples, used), tokens=None, temperature=used)
    if scheme == "uniform":
        ones = np.isfinite(samples).astype(np.float32)
        return Weights(samples=ones, tokens=None, temperature=None)
    if token_losses is None or len(token_losses) != len(samples):
        raise InputError(
            f"scheme {scheme} weighs tokens and needs token_losses of each of the {len(samples)} "
            "samples; score with --tokens"
        )
    flat = np.concatenate([np.empty(0, np.float32), *token_losses])
    tau = _temperature(flat, wanted) if scheme == "flow-token" else None
    weights = _kept_by_stm(flat) if tau is None else _exponential(flat, tau)
    ends = np.cumsum([0, *map(len, token_losses)]).tolist()
    tokens = [weights[start:end] for start, end in itertools.pairwise(ends)]
    means = [row.mean(dtype=np.float64) if len(row) else 0.0 for row in tokens]
    return Weights(samples=np.array(means, np.float32), tokens=tokens, temperature=tau)


def check_scheme(scheme: str, temperature: Any = None) -> None:
    """Refuse a scheme or temperature that no data could make right.

    Raises:
        InputError: as `weigh`.
    """
    if scheme not in SCHEMES:
        raise InputError(f"scheme is {scheme!r}; choose one of {', '.join(SCHEMES)}")
    if temperature is None or temperature == "median":
        return
    if not scheme.startswith("flow"):
        raise InputError(
            f"temperature is {temperature}, but scheme {scheme} has none; leave it out"
        )
    _number(temperature)


def _temperature(losses: ArrayLike, temperature: str | float) -> float:
    if temperature != "median":
        return _number(temperature)
    values = _as_losses(losses)
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError(f"losses hold no finite value among {len(values)}; nothing can be weighed")
    median = float(np.median(finite))
    if median <= 0:
        raise InputError(
            f"temperature is 'median', but the median loss is {median:g}, and the temperature must "
            "be above 0; give a number"
        )
    return median


def _number(temperature: Any) -> float:
    try:
        value = math.nan if isinstance(temperature, bool) else float(temperature)
    except (TypeError, ValueError):
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(
            f"temperature is {temperature!r}; give 'median' or a finite number above 0, in nats"
        )
    return value


def _as_losses(losses: ArrayLike) -> NDArray[np.float32]:
    try:
        values = np.asarray(losses, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"losses must be one row of numbers, got {type(losses).__name__}"
        ) from error
    if values.ndim != 1:
        raise InputError(f"losses must be one row of numbers, got an array of shape {values.shape}")
    return values


def _exponential(losses: NDArray[np.float32], temperature: float) -> Weights32:
    finite = np.isfinite(losses)
    exponents = np.where(finite, losses, np.inf).astype(np.float64) / -temperature
    return np.exp(exponents).astype(np.float32)


def _kept_by_stm(losses: NDArray[np.float32]) -> Weights32:
    finite = np.isfinite(losses)
    probabilities = np.exp(-np.where(finite, losses, np.inf).astype(np.float64))
    return (probabilities > STM_THRESHOLD).astype(np.float32)
