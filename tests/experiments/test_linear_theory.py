"""The linear theory's closed forms against gradient descent, eigenvalues and sampling."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.linear_theory.__main__ import table
from experiments.linear_theory.closed_forms import (
    CHI2_MEDIAN,
    average_of,
    best_average,
    beta_of,
    flow_after,
    median_beta,
    mu_squared_of,
    mu_squared_of_beta,
    q_matrix,
    sigma_tilde,
    spectrum,
    tau_of,
    total_error,
    vanilla_after,
)
from experiments.linear_theory.simulate import (
    descend,
    quadrature,
    random_problem,
    sampled_covariance,
)
from experiments.linear_theory.tuned import tune

ROOT = Path(__file__).resolve().parents[2]
RHOS = [0.0, 0.3, 0.7, 0.95]
TAUS = [0.1, CHI2_MEDIAN, 3.0]


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("tau", TAUS)
def test_weighted_descent_is_the_closed_form(rho: float, tau: float) -> None:
    problem = random_problem(4, rho, seed=3)
    scale = float(problem.e @ problem.e)
    mu_squared = mu_squared_of(tau)
    inputs, probabilities = quadrature(problem)
    rate = 1 / (2 * math.sqrt(mu_squared))
    path = descend(problem, inputs, probabilities, tau=tau * scale, rate=rate, steps=40)
    wanted = flow_after(np.arange(41.0), beta_of(mu_squared, rho), rho)
    found = problem.plane(path - problem.theta_tilde)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
    # Nothing leaves the plane, so the plane's coordinates are all there is.
    lengths = np.linalg.norm(path - problem.theta_tilde, axis=1) / math.sqrt(scale)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), lengths, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rho", RHOS)
def test_plain_descent_is_the_closed_form(rho: float) -> None:
    problem = random_problem(4, rho, seed=5)
    inputs, probabilities = quadrature(problem)
    path = descend(problem, inputs, probabilities, tau=math.inf, rate=0.1, steps=60)
    wanted = vanilla_after(np.arange(61.0), 0.1, rho)
    found = problem.plane(path - problem.theta_tilde)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tau", [0.1, CHI2_MEDIAN, 3.0, None])
def test_sampled_weights_give_the_covariance(tau: float | None) -> None:
    problem = random_problem(3, 0.6, seed=8)
    scale = float(problem.e @ problem.e)
    mean, error, used = sampled_covariance(
        problem, None if tau is None else tau * scale, samples=200_000, seed=1
    )
    assert used == pytest.approx((CHI2_MEDIAN if tau is None else tau) * scale, rel=0.02)
    mu_squared = mu_squared_of(used / scale)
    basis = np.stack([problem.e / math.sqrt(scale), problem.eperp], axis=-1)
    # Outside the plane Sigma' is mu times the identity.
    wanted = math.sqrt(mu_squared) * (np.eye(3) - basis @ q_matrix(mu_squared, 0.6) @ basis.T)
    assert np.abs((mean - wanted) / error).max() < 4.5


@given(st.floats(0.0, 0.98), st.floats(1e-3, 0.999))
def test_beta_and_the_spectrum(rho: float, mu_squared: float) -> None:
    beta = beta_of(mu_squared, rho)
    assert beta * rho < 1
    assert mu_squared_of_beta(beta, rho) == pytest.approx(mu_squared, rel=1e-9)
    assert mu_squared_of(tau_of(mu_squared)) == pytest.approx(mu_squared, rel=1e-12)
    q = q_matrix(mu_squared, rho)
    found = spectrum(beta, rho)
    np.testing.assert_allclose(q @ found.stalled, found.slow * found.stalled, atol=1e-9)
    np.testing.assert_allclose(q @ found.other, found.fast * found.other, atol=1e-9)
    assert abs(found.fast) <= found.slow + 1e-12 <= 1 + 1e-12


def test_mu_in_place_of_mu_squared_fits_no_covariance() -> None:
    rho, beta = 0.5, 0.3
    printed = mu_squared_of_beta(beta, rho)  # taken for mu itself
    q = q_matrix(printed**2, rho)
    assert abs(np.linalg.eigvalsh(q)[1] - spectrum(beta, rho).slow) > 0.1


def test_the_error_turns_into_the_stalled_direction() -> None:
    rho, beta = 0.6, 0.2
    found = spectrum(beta, rho)
    late = flow_after(np.arange(60.0, 62.0), beta, rho)
    cosine = late[0] @ found.stalled / np.linalg.norm(late[0]) / np.linalg.norm(found.stalled)
    assert cosine == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(late[1] / late[0], found.slow, rtol=1e-9)
    # The other direction is learned many times faster.
    assert abs(math.log(found.fast)) > 5 * abs(math.log(found.slow))


@given(st.floats(0.05, 20.0))
def test_best_average(s: float) -> None:
    sigma = np.array([[s, 0.3], [0.3, 1.0 + s]])
    alpha, least = best_average(sigma)
    errors = total_error(average_of(np.linspace(0, 1, 1001)), 0.4, sigma)
    assert least == pytest.approx(float(total_error(average_of(alpha), 0.4, sigma)), rel=1e-9)
    assert least <= errors.min() + 1e-12


def test_the_averaging_optimum_scales_with_the_square_of_e() -> None:
    for length in (0.5, 1.0, 3.0):
        e = np.array([length, 0.0])
        errors = [(a * e) @ (a * e) + ((1 - a) * e) @ ((1 - a) * e) for a in np.linspace(0, 1, 101)]
        assert min(errors) == pytest.approx(best_average()[1] * length**2)


@given(st.floats(0.01, 3.0), st.integers(1, 50))
def test_without_correlation_flow_is_an_average(beta: float, steps: int) -> None:
    flow = flow_after(float(steps), beta, 0.0)
    np.testing.assert_allclose(flow, average_of(1 - (1 + beta) ** -float(steps)), atol=1e-12)
    assert float(total_error(flow, 0.0)) >= best_average()[1] - 1e-12


@pytest.mark.parametrize("sigma", [None, np.array([[3.0, 1.0], [1.0, 2.0]])])
def test_tuned_flow_is_never_worse_than_the_best_average(sigma: np.ndarray | None) -> None:
    found = {rho: tune(rho, sigma) for rho in (0.0, 0.4, 0.8)}
    # Without correlation the two are equal, as far as a grid of settings can tell.
    assert found[0.0].flow == pytest.approx(found[0.0].average, abs=2e-6)
    for rho in (0.4, 0.8):
        assert found[rho].flow < found[rho].average
        assert found[rho].median >= found[rho].flow


def test_every_average_is_a_limit_of_flow() -> None:
    rho, beta = 0.7, 1e-6
    for alpha in (0.2, 0.5, 0.9):
        steps = round(math.log(1 - alpha) / math.log(spectrum(beta, rho).slow))
        np.testing.assert_allclose(
            flow_after(float(steps), beta, rho), average_of(alpha), rtol=0, atol=2e-6
        )


def test_median_temperature() -> None:
    assert median_beta(0.0) == pytest.approx(CHI2_MEDIAN / 2)
    problem = random_problem(3, 0.5, seed=2)
    normal = np.random.default_rng(0).normal(size=(200_000, 3))
    losses = (normal @ np.linalg.cholesky(problem.sigma_tilde).T @ problem.e) ** 2
    assert np.median(losses) == pytest.approx(CHI2_MEDIAN * problem.e @ problem.e, rel=0.02)
    assert sigma_tilde(0.5)[0, 0] == 1


def test_the_page_has_the_table_and_what_it_says_of_it() -> None:
    tuned = [tune(rho) for rho in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)]
    page = (ROOT / "docs" / "linear_theory.md").read_text(encoding="utf-8").splitlines()
    start = page.index(table(tuned)[0])
    assert page[start : start + 2 + len(tuned)] == table(tuned)
    for found in tuned:
        # Stopped at the best moment, plain gradient descent is within 1 % of tuned FLOW,
        assert found.flow <= found.vanilla * (1 + 1e-5) <= 1.01 * found.flow
        # and the median temperature within 2 %,
        assert found.flow <= found.median < 1.02 * found.flow
        # but on the wrong side of the best average where rho is small.
        assert (found.median > found.average) == (found.rho < 0.2)
