"""The summary before training: its numbers, and that it says the right thing in plain words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from bequest.results import results_document
from bequest.weighting.schemes import Scheme, flow_weights, weigh
from bequest.weighting.score_file import ScoreTable
from bequest.weighting.summary import effective_share, summary, verdict


def scores_of(
    token_losses: list[Any],
    scheme: Scheme = "flow",
    temperature: float | None = None,
    *,
    keep: bool = True,
) -> ScoreTable:
    tokens = [np.array(row, np.float32) for row in token_losses]
    losses = np.array([row.mean() if len(row) else np.nan for row in tokens], np.float32)
    weights = weigh(scheme, losses, tokens, temperature)
    return ScoreTable(
        index=np.arange(len(tokens)),
        loss=losses,
        num_tokens=np.array([len(row) for row in tokens], np.int32),
        row_hash=np.array(["0" * 32] * len(tokens)),
        weight=weights.samples,
        token_losses=tokens if keep else None,
        metadata={"scheme": scheme, "temperature": weights.temperature, "truncated": 1},
    )


def spread(low: float, high: float, count: int = 200) -> list[list[float]]:
    return [[loss] for loss in np.linspace(low, high, count).tolist()]


@given(arrays(np.float64, st.integers(1, 50), elements=st.floats(1e-3, 1)), st.floats(0.1, 10))
def test_the_effective_share_is_between_one_and_one_in_n(
    weights: NDArray[np.float64], factor: float
) -> None:
    share = effective_share(weights)
    assert 1 / len(weights) - 1e-9 <= share <= 1 + 1e-9
    assert effective_share(weights * factor) == pytest.approx(share)
    assert effective_share(np.append(weights, 0)) == pytest.approx(
        share * len(weights) / (len(weights) + 1)
    )


def test_effective_share_of_known_weights() -> None:
    assert effective_share(np.ones(7)) == 1
    assert effective_share(np.array([1.0, 0, 0, 0])) == 0.25
    assert effective_share(np.array([2.0, 1.0])) == pytest.approx(9 / 10)
    assert effective_share(np.zeros(3)) == 0


def test_nearly_equal_weights_are_called_so_and_the_proposal_holds() -> None:
    scores = scores_of(spread(1.0, 1.4))
    said = verdict(scores)
    assert "nearly equal" in said and "flow-token" in said
    number = float(said.split("a temperature of ")[1].split()[0])
    assert effective_share(flow_weights(scores.loss, number)) == pytest.approx(0.65, abs=0.05)
    assert "may spread more" in verdict(scores_of(spread(1.0, 1.4), keep=False))


def test_losses_that_are_all_alike_get_no_impossible_proposal() -> None:
    said = verdict(scores_of([[1.0]] * 10))
    assert "nearly equal" in said and "a temperature of" not in said


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (scores_of(spread(0.5, 12)), "enough to matter"),
        (scores_of(spread(0.5, 12), temperature=0.05), "A few samples"),
        (scores_of(spread(50, 60), temperature=0.01), "Every weight is 0"),
        (scores_of(spread(0.5, 12), "uniform"), "All weights are equal"),
        (scores_of([[5.0, 6.0], [0.1, 5.0]], "stm"), "4 response tokens count like 1"),
        (scores_of([[2.0, 1.0], [1.5]], "flow-token"), "3 response tokens"),
    ],
)
def test_the_verdict(scores: ScoreTable, found: str) -> None:
    assert found in verdict(scores)


def test_every_section_and_what_disappears_nowhere() -> None:
    scores = scores_of([[1.0, 1.0], [], [4.0], [np.inf], *spread(1, 3, 30)])
    texts = [f"sample {row}\nof a text " + "x" * 100 * (row % 2) for row in range(34)]
    sections = summary(scores, texts.__getitem__)
    results_document("bequest score", sections)
    overview = {row[0].strip(): row[1] for row in sections[0].data["rows"]}
    assert overview["samples"] == 34 and overview["truncated"] == 1
    assert overview["without a response token (weight 0)"] == 1
    assert overview["with a loss that is not finite (weight 0)"] == 1
    assert overview["response tokens"] == 34
    assert sections[1].data["rows"] == [[verdict(scores)]]
    quantiles = sections[2].data["rows"]
    assert quantiles[0][1] == 1.0 and quantiles[-1][1] == 4.0
    hardest = next(row for row in sections[3].data["rows"] if row[0] == "hard")
    finite = [2.0, 4.0, *np.linspace(1, 3, 30).tolist()]
    assert hardest[1] == 2 and hardest[2] == 4.0
    assert hardest[4] == pytest.approx(100 * 4.0 / sum(finite), rel=1e-5)
    assert hardest[5] < hardest[4]
    assert hardest[6] == "sample 2 of a text"
    assert all(len(str(row[-1])) <= 80 for row in sections[3].data["rows"])
    for series in sections[4].data["series"]:
        assert sum(series["counts"]) == pytest.approx(32)
    weights = sections[5].data
    assert sections[5].title == "Weights" and weights["edges"][0] == 0
    assert weights["edges"][-1] == pytest.approx(scores.weight.max())
    assert sum(weights["series"][0]["counts"]) == 32


@pytest.mark.parametrize("rows", [[[2.0]], [[2.0], [3.0]], [[]], [[0.5]] * 40])
def test_small_and_odd_data_sets(rows: list[list[float]]) -> None:
    results_document("bequest score", summary(scores_of(rows, "uniform")))
