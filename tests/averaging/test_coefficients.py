from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.averaging.coefficients import (
    blended,
    coefficient_vector,
    decay_coefficients,
    paper_of,
)
from bequest.averaging.recipes import LatestWeightAverage
from bequest.errors import InputError

CURVES = ["linear", "cosine", "1-sqrt", "inverse-sqrt"]
NAMED = ["uniform", "linear", "ema:0.2", "ema:1", *(f"decay:{curve}" for curve in CURVES)]
specs = st.sampled_from([*NAMED, *(f"qam:{spec}" for spec in NAMED)])
factors = st.lists(st.floats(0, 1), min_size=0, max_size=12).map(lambda w: sorted(w, reverse=True))


@given(specs, st.integers(1, 40))
def test_every_named_form_is_non_negative_and_sums_to_one(spec: str, members: int) -> None:
    vector = coefficient_vector(spec, members)
    assert vector.shape == (members,)
    assert vector.dtype == np.float64
    assert (vector >= 0).all()
    assert vector.sum() == pytest.approx(1, abs=1e-14)


@given(st.integers(1, 40))
def test_uniform_is_linear_decay(members: int) -> None:
    np.testing.assert_allclose(
        coefficient_vector("uniform", members),
        coefficient_vector("decay:linear", members),
        rtol=1e-13,
    )


def test_the_formulas_by_hand() -> None:
    np.testing.assert_allclose(coefficient_vector("linear", 3), [1 / 6, 2 / 6, 3 / 6])
    np.testing.assert_allclose(coefficient_vector("ema:0.5", 3), [1 / 7, 2 / 7, 4 / 7])
    np.testing.assert_allclose(
        coefficient_vector("decay:1-sqrt", 4), [0.5, 0.2071067811865, 0.1589186225, 0.1339745962]
    )
    np.testing.assert_allclose(coefficient_vector("decay:cosine", 2), [0.5, 0.5])
    np.testing.assert_allclose(coefficient_vector("decay:cosine", 3), [0.25, 0.5, 0.25])
    np.testing.assert_allclose(
        coefficient_vector("decay:inverse-sqrt", 3), [1 - 2**-0.5, 2**-0.5 - 3**-0.5, 3**-0.5]
    )
    np.testing.assert_allclose(coefficient_vector("decay:0.75,0.5", 3), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(coefficient_vector("0.2,0.3,0.5", 3), [0.2, 0.3, 0.5])
    np.testing.assert_allclose(coefficient_vector([0.2, 0.3, 0.5], 3), [0.2, 0.3, 0.5])
    # (1 - 1/2 + t/2) (1 - 1/4 + t/4) = 3/8 + t/2 + t^2/8
    np.testing.assert_allclose(
        coefficient_vector("qam:decay:0.5,0.25", 3), [3 / 8, 4 / 8, 1 / 8], rtol=1e-14
    )


def noisy_descent(
    rates: np.ndarray, updates: np.ndarray | None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent on a noisy quadratic; with `updates`, those are replayed at `rates`."""
    rng = np.random.default_rng(seed)
    curvature = np.diag([0.1, 0.5, 1.5])
    theta, trajectory, made = np.array([3.0, -2.0, 1.0]), [], []
    trajectory.append(theta)
    for step, rate in enumerate(rates):
        if updates is None:
            made.append(-0.3 * (curvature @ theta + rng.normal(size=3)))
        else:
            made.append(updates[step])
        theta = theta + rate * made[-1]
        trajectory.append(theta)
    return np.array(trajectory), np.array(made)


@given(factors)
def test_wsm_equals_the_decayed_run_on_the_same_updates(w: list[float]) -> None:
    trajectory, updates = noisy_descent(np.ones(len(w)), None)
    decayed, _ = noisy_descent(np.array(w), updates)
    np.testing.assert_allclose(decay_coefficients(w) @ trajectory, decayed[-1], atol=1e-13)


@given(st.sampled_from(CURVES), st.integers(2, 20))
def test_named_curves_equal_the_decayed_run(curve: str, members: int) -> None:
    trajectory, updates = noisy_descent(np.ones(members - 1), None)
    progress = np.arange(1, members) / members
    w = {
        "linear": 1 - progress,
        "cosine": 0.5 + 0.5 * np.cos(np.pi * progress),
        "1-sqrt": 1 - progress**0.5,
        "inverse-sqrt": (1 + np.arange(1, members)) ** -0.5,
    }[curve]
    decayed, _ = noisy_descent(w, updates)
    average = coefficient_vector(f"decay:{curve}", members) @ trajectory
    np.testing.assert_allclose(average, decayed[-1], atol=1e-13)


@given(factors.filter(len))
def test_qam_equals_the_schedule_really_run_again_on_a_quadratic(w: list[float]) -> None:
    eigenvalue, start = 0.7, 2.0
    trajectory = start * (1 - eigenvalue) ** np.arange(len(w) + 1)
    rerun = start * np.prod(1 - eigenvalue * np.array(w))
    spec = "qam:decay:" + ",".join(repr(factor) for factor in w)
    average = coefficient_vector(spec, len(w) + 1) @ trajectory
    assert average == pytest.approx(rerun, abs=1e-12)


@given(st.integers(1, 8), st.floats(0, 1))
def test_blend_moves_towards_the_newest(members: int, blend: float) -> None:
    vector = coefficient_vector("uniform", members)
    values = np.random.default_rng(members).normal(size=members)
    expected = (1 - blend) * values[-1] + blend * (vector @ values)
    assert blended(vector, blend) @ values == pytest.approx(expected, abs=1e-13)
    assert blended(vector, blend).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("spec", "members", "said"),
    [
        ("unifrom", 3, "unifrom"),
        ("uniform", 0, "window is 0"),
        ("ema", 3, "ema:ALPHA"),
        ("ema:", 3, "ema:ALPHA"),
        ("ema:0", 3, "ema:0.2"),
        ("ema:1.5", 3, "at most 1"),
        ("ema:nan", 3, "at most 1"),
        ("decay:sqrt", 3, "inverse-sqrt"),
        ("decay:0.5", 3, "give 2"),
        ("decay:0.2,0.5", 3, "never rise"),
        ("decay:1.5,0.5", 3, "start at 1"),
        ("decay:0.5,nan", 3, "start at 1"),
        ("0.5,0.5", 3, "window holds 3"),
        ("0.5,0.6", 2, "sum 1.1"),
        ("1.5,-0.5", 2, "minimum -0.5"),
        ("nan,1", 2, "numbers from 0"),
        ([], 2, "0 numbers"),
        ("qam:what", 2, "what"),
    ],
)
def test_wrong_specs_are_refused_in_one_sentence(
    spec: str | list[float], members: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        coefficient_vector(spec, members)


@pytest.mark.parametrize(
    ("spec", "paper"),
    [
        ("uniform", "lawa"),
        ([0.2, 0.8], "lawa"),
        (" ema:0.2", "ema"),
        ("decay:0.9,0.5", "wsm"),
        ("qam:decay:cosine", "wsm"),
    ],
)
def test_what_an_average_is_cited_as(spec: str | list[float], paper: str) -> None:
    assert paper_of(spec) == paper
    recipe = LatestWeightAverage(
        window=3 if isinstance(spec, str) else 2, spacing=1, coefficients=spec
    )
    assert recipe.paper == paper


def test_blend_out_of_range_is_refused() -> None:
    for blend in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="blend"):
            blended(np.ones(1), blend)
