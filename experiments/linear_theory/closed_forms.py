"""The closed forms: what weighted gradient descent learns, and what it costs in total.

A model is a vector theta. The pre-training task is y = <theta_star, x> with covariance Sigma, the
fine-tuning task y = <theta_tilde, x> with x ~ N(0, Sigma_tilde). Everything that differs between
the two lies in one plane: with e = theta_star - theta_tilde,

    ebar = e / ||e||,   eperp a unit vector orthogonal to e,
    Sigma_tilde = I + rho (ebar eperp^T + eperp ebar^T),   0 <= rho < 1.

So vectors here are the two coordinates (ebar, eperp) of theta - theta_tilde, in units of ||e||: the
start is (1, 0), the fine-tuned optimum (0, 0). All arrays are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

START: Array = np.array([1.0, 0.0])
"""theta_star - theta_tilde, in units of ||e||."""
CHI2_MEDIAN: float = 0.454936423119573
"""Median of a squared standard normal variable."""


def sigma_tilde(rho: float) -> Array:
    """The covariance of the fine-tuning inputs in the plane."""
    return np.array([[1.0, rho], [rho, 1.0]])


def mu_squared_of(tau: float) -> float:
    """mu^2 = tau / (tau + 2 ||e||^2), with tau in units of ||e||^2."""
    return tau / (tau + 2.0) if math.isfinite(tau) else 1.0


def tau_of(mu_squared: float) -> float:
    """The temperature that gives a mu^2 below 1, in units of ||e||^2."""
    return 2.0 * mu_squared / (1.0 - mu_squared)


def mu_squared_of_beta(beta: float, rho: float) -> float:
    """mu^2 = beta (1 - rho^2) / ((1 + beta)(1 - beta rho^2)), for 0 <= beta < 1 / rho."""
    return beta * (1 - rho**2) / ((1 + beta) * (1 - beta * rho**2))


def beta_of(mu_squared: float, rho: float) -> float:
    """The beta of a mu^2 below 1: the root of the quadratic that lies in [0, 1 / rho)."""
    # (1 - rho^2) b = m (1 + b)(1 - b rho^2), sorted by powers of b.
    square, linear = mu_squared * rho**2, (1 - rho**2) * (1 - mu_squared)
    # The form without cancellation, which also holds at rho = 0.
    return 2 * mu_squared / (linear + math.sqrt(linear**2 + 4 * square * mu_squared))


def median_beta(rho: float) -> float:
    """The beta of FLOW's temperature, the median of the squared residuals of theta_star."""
    # The residual is <e, x> ~ N(0, e^T Sigma_tilde e), and that variance is ||e||^2 for every rho.
    return beta_of(mu_squared_of(CHI2_MEDIAN), rho)


def q_matrix(mu_squared: float, rho: float) -> Array:
    """Q of Sigma' = mu (I - Q), the covariance that weights exp(-residual^2 / tau) leave."""
    return np.array(
        [
            [1 - mu_squared, -rho * mu_squared],
            [-rho * mu_squared, rho**2 * (1 - mu_squared)],
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Q's eigenvalues and eigenvectors in the plane."""

    slow: float
    """lambda_1: what is left after a step of the error in the stalled direction."""
    fast: float
    """lambda_2, of the other direction."""
    stalled: Array
    """The direction in which learning stalls, (1, -beta rho); not of unit length."""
    other: Array
    """Orthogonal to it, (beta rho, 1)."""


def spectrum(beta: float, rho: float) -> Spectrum:
    """Q's eigenvalues and eigenvectors in terms of beta."""
    return Spectrum(
        slow=(1 + beta * rho**2) / (1 + beta),
        fast=rho**2 * (1 - beta) / (1 - beta * rho**2),
        stalled=np.array([1.0, -beta * rho]),
        other=np.array([beta * rho, 1.0]),
    )


def flow_after(steps: Array | float, beta: float, rho: float) -> Array:
    """Q^K e: FLOW's distance to theta_tilde after K steps at the rate 1 / (2 mu), shape (..., 2)."""
    found = spectrum(beta, rho)
    share = 1 / (1 + (beta * rho) ** 2)
    k = np.asarray(steps, dtype=np.float64)[..., None]
    decay_slow = np.power(found.slow, k)
    # lambda_2 is negative for beta above 1, and then steps are whole numbers.
    decay_fast = np.where(k == 0, 1.0, np.power(found.fast, k))
    along_slow = decay_slow * found.stalled
    along_fast = decay_fast * beta * rho * found.other
    result: Array = share * (along_slow + along_fast)
    return result


def vanilla_after(steps: Array | float, rate: float, rho: float) -> Array:
    """(I - 2 eta Sigma_tilde)^K e: plain gradient descent at the rate eta, shape (..., 2)."""
    k = np.asarray(steps, dtype=np.float64)[..., None]
    up, down = np.power(1 - 2 * rate * (1 + rho), k), np.power(1 - 2 * rate * (1 - rho), k)
    result: Array = np.concatenate([(up + down) / 2, (up - down) / 2], axis=-1)
    return result


def average_of(alpha: Array | float) -> Array:
    """(1 - alpha) theta_star + alpha theta_tilde, as a distance to theta_tilde, shape (..., 2)."""
    left = 1 - np.asarray(alpha, dtype=np.float64)[..., None]
    result: Array = left * START
    return result


def total_error(distance: Array, rho: float, sigma: Array | None = None) -> Array:
    """Pre-training plus fine-tuning error, in units of ||e||^2.

    Args:
        distance: theta - theta_tilde in the plane, shape (..., 2).
        rho: of Sigma_tilde.
        sigma: covariance of pre-training in the plane; None is the identity.
    """
    moved = distance - START
    before = np.eye(2) if sigma is None else sigma
    old = np.einsum("...i,ij,...j->...", moved, before, moved)
    new = np.einsum("...i,ij,...j->...", distance, sigma_tilde(rho), distance)
    result: Array = old + new
    return result


def best_average(sigma: Array | None = None) -> tuple[float, float]:
    """The alpha of the best average of the two models, and its total error.

    With s = ebar^T Sigma ebar the error is alpha^2 s + (1 - alpha)^2, in units of ||e||^2.
    """
    s = 1.0 if sigma is None else float(sigma[0, 0])
    return 1 / (1 + s), s / (1 + s)
