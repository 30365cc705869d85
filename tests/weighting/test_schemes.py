"""The weights against their formulas, the problem they solve, and what must not change them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from bequest.errors import InputError
from bequest.weighting.schemes import Scheme, flow_weights, weigh

LOSSES = arrays(
    np.float32,
    st.integers(1, 30),
    elements=st.floats(0.0009765625, 20, width=32),
)
TEMPERATURES = st.floats(0.05, 50)


def reference(losses: NDArray[Any], temperature: float | None) -> list[float]:
    """FLOW as the paper writes it, in Python's float64, one loss after the other."""
    ordered = sorted(float(loss) for loss in losses if math.isfinite(loss))
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    tau = median if temperature is None else temperature
    return [math.exp(-float(loss) / tau) if math.isfinite(loss) else 0.0 for loss in losses]


@given(LOSSES, st.none() | TEMPERATURES)
def test_it_is_the_formula(losses: NDArray[np.float32], temperature: float | None) -> None:
    found = flow_weights(losses, "median" if temperature is None else temperature)
    assert found.dtype == np.float32
    wanted = reference(losses, temperature)
    # tau's median is rounded to float32 before it divides: 20 / 1e-3 nats amplify that.
    exponent = 20 / (temperature or float(np.median(losses)))
    np.testing.assert_allclose(found, wanted, rtol=3e-7 * (1 + exponent), atol=1e-37)


def test_the_median_sample_weighs_one_over_e() -> None:
    assert flow_weights([3.0, 1.0, 2.0])[2] == np.float32(math.exp(-1))
    assert flow_weights([1.0, 2.0], "median")[0] == np.float32(math.exp(-1 / 1.5))


@given(LOSSES, TEMPERATURES, st.integers(0, 2**32 - 1))
def test_it_minimises_loss_and_negative_entropy_over_the_simplex(
    losses: NDArray[np.float32], temperature: float, seed: int
) -> None:
    """No other distribution has a lower sum of pi f + tau sum of pi log pi, near or far."""
    f = losses.astype(np.float64)

    def objective(pi: NDArray[np.float64]) -> float:
        entropy = np.where(pi > 0, pi * np.log(np.where(pi > 0, pi, 1.0)), 0.0).sum()
        return float(pi @ f + temperature * entropy)

    weights = np.exp((f.min() - f) / temperature)
    best = flow_weights(losses, temperature).astype(np.float64)
    if best.max() < 1e-30:  # Underflow: the direction is lost, which float32 cannot help.
        return
    best /= best.sum()
    np.testing.assert_allclose(best, weights / weights.sum(), rtol=1e-5, atol=1e-7)
    generator = np.random.default_rng(seed)
    slack = 1e-6 * (1 + abs(objective(best)))
    for other in generator.dirichlet(np.full(len(f), 0.5), 20):
        for step in (1.0, 0.1, 1e-3):
            assert objective(best + step * (other - best)) >= objective(best) - slack


@given(LOSSES, st.floats(0.1, 10), st.randoms())
def test_order_and_unit_do_not_matter(
    losses: NDArray[np.float32], factor: float, random: Any
) -> None:
    weights = flow_weights(losses)
    shuffled = list(range(len(losses)))
    random.shuffle(shuffled)
    np.testing.assert_array_equal(flow_weights(losses[shuffled]), weights[shuffled])
    scaled = flow_weights((losses.astype(np.float64) * factor).astype(np.float32))
    exponent = 20 / float(np.median(losses))
    np.testing.assert_allclose(scaled, weights, rtol=3e-7 * (1 + exponent), atol=1e-37)


@given(LOSSES, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 30))
def test_a_loss_that_is_not_finite_weighs_nothing_and_moves_nothing(
    losses: NDArray[np.float32], odd: float, place: int
) -> None:
    place = min(place, len(losses))
    found = flow_weights(np.insert(losses, place, odd))
    assert found[place] == 0
    np.testing.assert_array_equal(np.delete(found, place), flow_weights(losses))


@given(LOSSES)
def test_the_easier_never_weighs_less(losses: NDArray[np.float32]) -> None:
    weights = flow_weights(losses)
    assert (np.diff(weights[np.argsort(losses)]) <= 0).all()
    assert (weights >= 0).all() and (weights <= 1).all()


TOKENS = [
    np.array([0.1, 2.0, np.nan], np.float32),
    np.empty(0, np.float32),
    np.array([0.9, 0.92], np.float32),
    np.array([5.0], np.float32),
]
MEANS = [math.nan, math.nan, 0.91, 5.0]


def test_token_weights_take_the_median_of_all_tokens() -> None:
    found = weigh("flow-token", MEANS, TOKENS)
    assert found.temperature == pytest.approx(0.92)
    assert found.tokens is not None
    wanted = reference(np.concatenate(TOKENS), None)
    np.testing.assert_allclose(np.concatenate(found.tokens), wanted, rtol=1e-6)
    assert [len(row) for row in found.tokens] == [3, 0, 2, 1]
    np.testing.assert_allclose(
        found.samples, [np.mean(wanted[:3]), 0, np.mean(wanted[3:5]), wanted[5]], rtol=1e-6
    )


def test_masking_keeps_tokens_above_the_threshold() -> None:
    found = weigh("stm", MEANS, TOKENS)
    # -ln 0.4 = 0.9163: 0.9 is kept, 0.92 is not.
    assert found.tokens is not None and found.temperature is None
    assert [row.tolist() for row in found.tokens] == [[1, 0, 0], [], [1, 0], [0]]


def test_sample_schemes() -> None:
    uniform = weigh("uniform", MEANS)
    assert uniform.samples.tolist() == [0, 0, 1, 1] and uniform.tokens is None
    flow = weigh("flow", MEANS)
    np.testing.assert_array_equal(flow.samples, flow_weights(MEANS))
    assert flow.temperature == pytest.approx(2.955)
    assert weigh("flow", MEANS, temperature=0.5).temperature == 0.5


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "mean", "", None, True, [1]])
def test_a_wrong_temperature_is_refused(temperature: Any) -> None:
    with pytest.raises(InputError, match="temperature"):
        flow_weights([1.0, 2.0], temperature)


@pytest.mark.parametrize("losses", [[], [math.nan, math.inf], [[1.0]], ["a"], [0.0, 0.0], 1.0])
def test_losses_without_a_median_are_refused(losses: Any) -> None:
    with pytest.raises(InputError):
        flow_weights(losses)


@pytest.mark.parametrize(
    ("scheme", "arguments"),
    [
        ("flw", {}),
        ("stm", {"temperature": 2.0}),
        ("uniform", {"temperature": 2.0}),
        ("flow-token", {}),
        ("stm", {"token_losses": TOKENS[:2]}),
        ("flow", {"temperature": 0}),
    ],
)
def test_a_scheme_without_what_it_needs_is_refused(
    scheme: Scheme, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        weigh(scheme, MEANS, **arguments)
