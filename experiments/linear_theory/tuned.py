"""The least total error that each method reaches when its settings are searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.linear_theory.closed_forms import (
    Array,
    best_average,
    flow_after,
    median_beta,
    total_error,
    vanilla_after,
)

BETAS: Array = np.concatenate([np.geomspace(1e-4, 0.05, 60), np.linspace(0.05, 0.999, 400)[1:]])
"""The grid of beta: mu^2 from about 0 to 1/2, where Q has no negative eigenvalue."""
RATES: Array = np.geomspace(5e-3, 0.99, 80)
"""The grid of plain gradient descent's rate, in units of 1 / (1 + rho), from where it diverges."""
STEPS: Array = np.unique(np.round(np.append(np.geomspace(400, 20_000, 800), np.arange(400))))
"""The grid of K: every number up to 400, then ever fewer up to 20,000."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Total errors in units of ||e||^2, and the settings that reach them."""

    rho: float
    """Correlation of the fine-tuning inputs."""
    flow: float
    """FLOW, beta and K searched."""
    flow_beta: float
    """Its beta."""
    flow_steps: int
    """Its K."""
    median: float
    """FLOW at the median temperature, K searched."""
    median_beta: float
    """Its beta."""
    median_steps: int
    """Its K."""
    vanilla: float
    """Plain gradient descent, rate and K searched."""
    average: float
    """The best average of the pre-trained and the fine-tuned model."""


def tune(rho: float, sigma: Array | None = None) -> Tuned:
    """Search every method's settings.

    Args:
        rho: correlation of the fine-tuning inputs.
        sigma: covariance of pre-training in the plane; None is the identity.
    """
    flow = min(_best(float(beta), rho, sigma) for beta in BETAS)
    at_median = _best(median_beta(rho), rho, sigma)
    vanilla = min(
        float(total_error(vanilla_after(STEPS, float(rate) / (1 + rho), rho), rho, sigma).min())
        for rate in RATES
    )
    return Tuned(
        rho=rho,
        flow=flow[0],
        flow_beta=flow[1],
        flow_steps=flow[2],
        median=at_median[0],
        median_beta=at_median[1],
        median_steps=at_median[2],
        vanilla=vanilla,
        average=best_average(sigma)[1],
    )


def _best(beta: float, rho: float, sigma: Array | None) -> tuple[float, float, int]:
    errors = total_error(flow_after(STEPS, beta, rho), rho, sigma)
    least = int(errors.argmin())
    return float(errors[least]), beta, int(STEPS[least])
