"""What weights will do to a fine-tuning, told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bequest.results import Section
from bequest.weighting.schemes import TOKEN_SCHEMES, flow_weights, weigh
from bequest.weighting.score_file import ScoreTable

_QUANTILES = (0, 10, 25, 50, 75, 90, 100)
_NAMED = 5
"""How many of the hardest and of the easiest samples are named."""
_TEXT_LENGTH = 80
_BINS = 30

NEARLY_EQUAL = 0.9
"""Share of effective samples above which weights are called nearly equal. On a data set with 95 %
no difference to plain fine-tuning could be seen, on one with 64 % a small one."""
_SPREAD = 0.65
"""The share that a proposed temperature aims at."""
_FEW = 0.1


def effective_share(weights: NDArray[Any]) -> float:
    """Return `(sum w)^2 / (N sum w^2)`, Kish's effective sample size as a share of N.

    1 for equal weights, 1/N when a single one is not 0; 0 when all are.
    """
    values = np.asarray(weights, dtype=np.float64)
    power = len(values) * float(values @ values)
    return float(values.sum()) ** 2 / power if power > 0 else 0.0


def summary(scores: ScoreTable, text_of: Callable[[int], str] | None = None) -> list[Section]:
    """Describe the losses and weights of a data set as sections of `results.json`.

    Args:
        scores: of all its samples.
        text_of: gives for a row a text to know its sample by; it is shortened.
    """
    counted = _counted(scores)
    sections = [_overview(scores), _answer(scores)]
    if len(counted):
        sections += [_quantiles(scores, counted), _ends(scores, counted, text_of)]
        sections += [_histogram(scores, counted), _weights(scores)]
    return sections


def verdict(scores: ScoreTable) -> str:
    """Say in plain words whether the weights can matter to a fine-tuning.

    Optimizers of Adam's kind do not see a factor that all samples share, so only how much the
    weights differ counts.

    Args:
        scores: of all samples of the data set.
    """
    weights = _units(scores)
    if not len(weights) or not weights.any():
        return "Every weight is 0, so nothing would be learned: raise the temperature."
    share, what = effective_share(weights), _unit_name(scores)
    told = f"the {len(weights):,} {what} count like {share * len(weights):,.0f} ({share:.0%})"
    if scores.metadata.get("scheme") == "uniform":
        return f"All weights are equal: {told}, as in plain fine-tuning."
    if share < _FEW:
        return (
            f"A few {what} carry nearly all weight: {told}; the others are hardly learned, so "
            "raise the temperature unless that is meant."
        )
    if share < NEARLY_EQUAL:
        return f"The weights differ enough to matter: {told}."
    return (
        f"The weights are nearly equal: {told}, and optimizers like Adam do not see a common "
        f"factor, so training will hardly differ from plain fine-tuning; {_proposal(scores)}"
    )


def _proposal(scores: ScoreTable) -> str:
    ways = []
    if scores.metadata.get("scheme") in ("flow", "flow-token"):
        temperature = _spreading_temperature(_unit_losses(scores))
        if temperature is not None:
            ways.append(f"a temperature of {temperature:.2g} would make it {_SPREAD:.0%}")
    if scores.metadata.get("scheme") not in TOKEN_SCHEMES and scores.token_losses is not None:
        tokens = weigh("flow-token", scores.loss, scores.token_losses).tokens
        share = effective_share(np.concatenate([np.empty(0, np.float32), *(tokens or ())]))
        ways.append(f"weights of tokens (--scheme flow-token) spread more ({share:.0%} of tokens)")
    elif scores.metadata.get("scheme") not in TOKEN_SCHEMES:
        ways.append("weights of tokens (--scheme flow-token) may spread more")
    return ", and ".join(ways or ["its losses are too much alike"]) + "."


def _spreading_temperature(losses: NDArray[np.float32]) -> float | None:
    """Find the temperature at which the effective share is `_SPREAD`, by bisection."""
    finite = losses[np.isfinite(losses)]
    low, high = 1e-3, float(np.median(finite))
    # The share is 1 for equal losses whatever the temperature; then there is nothing to find.
    if effective_share(flow_weights(finite - finite.min(), low)) > _SPREAD:
        return None
    for _ in range(40):
        middle = (low * high) ** 0.5
        # A factor that all share changes no share, and without it nothing underflows.
        if effective_share(flow_weights(finite - finite.min(), middle)) < _SPREAD:
            low = middle
        else:
            high = middle
    return high


def _counted(scores: ScoreTable) -> NDArray[np.intp]:
    """Return the rows that have a finite loss: all the others weigh 0 and teach nothing."""
    return np.flatnonzero(np.isfinite(scores.loss))


def _unit_name(scores: ScoreTable) -> str:
    return "response tokens" if scores.metadata.get("scheme") in TOKEN_SCHEMES else "samples"


def _unit_losses(scores: ScoreTable) -> NDArray[np.float32]:
    """Return the losses of what the scheme weighs: samples or tokens."""
    if scores.metadata.get("scheme") in TOKEN_SCHEMES and scores.token_losses is not None:
        return np.concatenate([np.empty(0, np.float32), *scores.token_losses])
    return scores.loss[_counted(scores)]


def _units(scores: ScoreTable) -> NDArray[np.float32]:
    """Return the weights of what the scheme weighs."""
    scheme = scores.metadata.get("scheme")
    if scheme in TOKEN_SCHEMES and scores.token_losses is not None:
        temperature = scores.metadata.get("temperature")
        tokens = weigh(scheme, scores.loss, scores.token_losses, temperature).tokens
        return np.concatenate([np.empty(0, np.float32), *(tokens or ())])
    return scores.weight[_counted(scores)]


def _overview(scores: ScoreTable) -> Section:
    told = scores.metadata
    units = _units(scores)
    share = effective_share(units)
    rows: list[list[Any]] = [
        ["samples", len(scores)],
        ["  truncated", told.get("truncated")],
        ["  without a response token (weight 0)", int((scores.num_tokens == 0).sum())],
        [
            "  with a loss that is not finite (weight 0)",
            int(((scores.num_tokens > 0) & ~np.isfinite(scores.loss)).sum()),
        ],
        ["response tokens", int(scores.num_tokens.sum(dtype=np.int64))],
        ["scheme", told.get("scheme")],
        ["temperature (nats)", told.get("temperature")],
        [f"effective {_unit_name(scores)}", round(share * len(units))],
        ["effective share", share],
    ]
    return Section(title="Scores", type="table", data={"columns": ["what", "value"], "rows": rows})


def _answer(scores: ScoreTable) -> Section:
    data = {"columns": ["answer"], "rows": [[verdict(scores)]], "headline": True}
    return Section(title="Can these weights matter?", type="table", data=data)


def _quantiles(scores: ScoreTable, counted: NDArray[np.intp]) -> Section:
    losses, weights = scores.loss[counted], scores.weight[counted]
    places = np.array(_QUANTILES) / 100
    rows = [
        [f"{percent} %", loss, weight]
        for percent, loss, weight in zip(
            _QUANTILES,
            np.quantile(losses.astype(np.float64), places).tolist(),
            np.quantile(weights.astype(np.float64), places).tolist(),
            strict=True,
        )
    ]
    columns = ["quantile", "loss (nats/token)", "weight"]
    return Section(
        title="Quantiles over samples, each column by itself",
        type="table",
        data={"columns": columns, "rows": rows},
    )


def _ends(
    scores: ScoreTable, counted: NDArray[np.intp], text_of: Callable[[int], str] | None
) -> Section:
    """Name the samples at both ends, and say what the hardest and easiest tenth carry."""
    order = counted[np.argsort(-scores.loss[counted], kind="stable")]
    finite = np.where(np.isfinite(scores.loss), scores.loss, 0.0)
    nats = finite.astype(np.float64) * scores.num_tokens
    before = nats[counted].sum()
    weighted = nats * scores.weight
    after = weighted[counted].sum()

    def shares(rows: NDArray[np.intp]) -> list[float]:
        return [
            100 * float(part[rows].sum() / whole) if whole > 0 else 0.0
            for part, whole in ((nats, before), (weighted, after))
        ]

    tenth = max(1, len(order) // 10)
    rows: list[list[Any]] = [
        ["hardest tenth", None, None, None, *shares(order[:tenth]), f"{tenth:,} samples"],
        ["easiest tenth", None, None, None, *shares(order[-tenth:]), f"{tenth:,} samples"],
    ]
    named = min(_NAMED, len(order) // 2) or len(order)
    for kind, some in (("hard", order[:named]), ("easy", order[: -named - 1 : -1])):
        for row in some.tolist():
            text = _short(text_of(row)) if text_of is not None else ""
            loss, weight = float(scores.loss[row]), float(scores.weight[row])
            index = int(scores.index[row])
            rows.append([kind, index, loss, weight, *shares(np.array([row])), text])
    columns = ["which", "index", "loss (nats/token)", "weight"]
    columns += ["% of the loss", "% of it once weighted", "text"]
    return Section(
        title="The hardest samples, which weighting gives up, and the easiest",
        type="table",
        data={"columns": columns, "rows": rows},
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_LENGTH else line[: _TEXT_LENGTH - 1] + "…"


def _histogram(scores: ScoreTable, counted: NDArray[np.intp]) -> Section:
    """Count samples by loss, plain and weighted; both series add up to the number of samples."""
    losses = scores.loss[counted].astype(np.float64)
    weights = scores.weight[counted].astype(np.float64)
    total = weights.sum()
    edges = np.histogram_bin_edges(losses, bins=_BINS)
    plain, _ = np.histogram(losses, edges)
    series = [{"name": "samples", "counts": plain.tolist()}]
    if total > 0:
        weighted, _ = np.histogram(losses, edges, weights=weights * (len(weights) / total))
        series.append({"name": "samples, weighted", "counts": weighted.tolist()})
    return Section(
        title="Losses before and after weighting",
        type="histogram",
        data={
            "x_label": "loss under the pre-trained model (nats/token)",
            "y_label": "samples",
            "edges": edges.tolist(),
            "series": series,
        },
    )


def _weights(scores: ScoreTable) -> Section:
    """Count what the scheme weighs by its weight."""
    weights = _units(scores).astype(np.float64)
    counts, edges = np.histogram(weights, bins=_BINS, range=(0.0, float(weights.max()) or 1.0))
    return Section(
        title="Weights",
        type="histogram",
        data={
            "x_label": "weight",
            "y_label": _unit_name(scores),
            "edges": edges.tolist(),
            "series": [{"name": _unit_name(scores), "counts": counts.tolist()}],
        },
    )
