"""The same numbers without the closed forms: gradient descent on expected gradients, and sampling.

Here vectors live in D dimensions with e and eperp in general position, and an expectation over the
inputs is a sum over a fine grid or a mean over samples.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from experiments.linear_theory.closed_forms import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One pair of tasks in D dimensions."""

    theta_star: Array
    """Optimum of pre-training, shape (D,)."""
    theta_tilde: Array
    """Optimum of fine-tuning, shape (D,)."""
    eperp: Array
    """Unit vector orthogonal to their difference, shape (D,)."""
    rho: float
    """How far the fine-tuning inputs are correlated in the plane of the two."""

    @property
    def e(self) -> Array:
        """theta_star - theta_tilde."""
        result: Array = self.theta_star - self.theta_tilde
        return result

    @property
    def sigma_tilde(self) -> Array:
        """Covariance of the fine-tuning inputs, shape (D, D)."""
        ebar = self.e / np.linalg.norm(self.e)
        cross = np.outer(ebar, self.eperp)
        result: Array = np.eye(len(ebar)) + self.rho * (cross + cross.T)
        return result

    def plane(self, distance: Array) -> Array:
        """The coordinates of theta - theta_tilde along ebar and eperp in units of ||e||."""
        length = np.linalg.norm(self.e)
        basis = np.stack([self.e / length, self.eperp], axis=-1)
        result: Array = distance @ basis / length
        return result


def random_problem(dimensions: int, rho: float, seed: int) -> Problem:
    """Two tasks in general position."""
    generator = np.random.default_rng(seed)
    theta_star = generator.normal(size=dimensions)
    theta_tilde = generator.normal(size=dimensions)
    e = theta_star - theta_tilde
    other = generator.normal(size=dimensions)
    other -= e * (other @ e) / (e @ e)
    return Problem(
        theta_star=theta_star,
        theta_tilde=theta_tilde,
        eperp=other / np.linalg.norm(other),
        rho=rho,
    )


def quadrature(problem: Problem, nodes: int = 801) -> tuple[Array, Array]:
    """Points and probabilities that stand for x ~ N(0, Sigma_tilde), shapes (N, D) and (N,).

    The weight depends on <e, x> alone; along it a trapezoidal sum is used, which for integrands as
    smooth as these is exact to rounding. In all other directions the integrands are polynomials
    of degree two, for which three Gauss-Hermite nodes are exact.
    """
    size = len(problem.e)
    root = np.linalg.cholesky(problem.sigma_tilde)
    # A rotation that turns the first standard normal into the one that <e, x> is made of.
    first = root.T @ problem.e
    rotation = np.linalg.qr(np.column_stack([first, np.eye(size)[:, : size - 1]]))[0]
    along = np.linspace(-13, 13, nodes)
    axes = [(along, np.exp(-(along**2) / 2))]
    axes += [np.polynomial.hermite_e.hermegauss(3)] * (size - 1)
    points = np.array(list(itertools.product(*(axis[0] for axis in axes))))
    probabilities = np.array([np.prod(p) for p in itertools.product(*(axis[1] for axis in axes))])
    return points @ rotation.T @ root.T, probabilities / probabilities.sum()


def descend(
    problem: Problem,
    inputs: Array,
    probabilities: Array,
    *,
    tau: float,
    rate: float,
    steps: int,
) -> Array:
    """Run gradient descent on sum_i p_i w_i <theta - theta_tilde, x_i>^2 from theta_star.

    Args:
        problem: the two tasks.
        inputs: x_i, shape (N, D).
        probabilities: p_i, shape (N,).
        tau: temperature of w_i = exp(-residual_i^2 / tau) at theta_star; infinite is no weighting.
        rate: eta.
        steps: K.

    Returns:
        theta_0 .. theta_K, shape (K + 1, D).
    """
    targets = inputs @ problem.theta_tilde
    weights = np.exp(-((inputs @ problem.theta_star - targets) ** 2) / tau)
    theta = problem.theta_star.copy()
    path = [theta]
    for _ in range(steps):
        residuals = inputs @ theta - targets
        theta = theta - rate * 2 * (probabilities * weights * residuals) @ inputs
        path.append(theta)
    return np.array(path)


def sampled_covariance(
    problem: Problem, tau: float | None, samples: int, seed: int
) -> tuple[Array, Array, float]:
    """E[w x x^T] by Monte Carlo.

    Args:
        problem: the two tasks.
        tau: temperature; None takes the median of the sampled squared residuals.
        samples: how many inputs to draw.
        seed: of the draw.

    Returns:
        The mean, its standard error for each entry, and the temperature.
    """
    generator = np.random.default_rng(seed)
    root = np.linalg.cholesky(problem.sigma_tilde)
    inputs = generator.normal(size=(samples, len(problem.e))) @ root.T
    losses = (inputs @ problem.e) ** 2
    used = float(np.median(losses)) if tau is None else tau
    products = np.exp(-losses / used)[:, None, None] * inputs[:, :, None] * inputs[:, None, :]
    return products.mean(0), products.std(0, ddof=1) / np.sqrt(samples), used
