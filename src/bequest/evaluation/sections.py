"""Comparisons as tables and a figure of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bequest.checkpoints.account import account
from bequest.evaluation.items import ItemScores
from bequest.evaluation.models import Candidate
from bequest.evaluation.paired import Comparison, Statistics
from bequest.evaluation.plan import EvaluationPlan
from bequest.results import Section


def sections_of(
    candidates: Sequence[Candidate],
    scores: Mapping[str, Sequence[ItemScores]],
    comparisons: Sequence[Comparison],
    target: Sequence[str],
    level: float,
) -> list[Section]:
    """Lay out what was found.

    Args:
        candidates: the models.
        scores: for each task every model's items.
        comparisons: judged models against the one before, and perhaps against one another.
        target: names of the tasks that the change was made for.
        level: of the intervals.
    """
    before = candidates[0].label
    gains = _gains("Gains and losses", [c for c in comparisons if c.before_name == before], level)
    metrics = _metrics(candidates, scores)
    sections = [replace(gains, data={**gains.data, "headline": True, "metrics": metrics})]
    between = [c for c in comparisons if c.before_name != before]
    if between:
        sections.append(_gains("The judged models against one another", between, level))
    sections += _gains_by_task([c for c in comparisons if c.before_name == before], level)
    changed = [c for c in comparisons if c.changed is not None]
    if changed:
        sections.append(_changed_items(changed))
    sections += _target_against_forgetting(
        [c for c in comparisons if c.before_name == before], set(target)
    )
    if len({candidate.label for candidate in candidates}) < len(candidates):
        sections.append(_every_run(candidates, scores))
    sections.append(_models(candidates))
    return sections


def notes_on(comparisons: Sequence[Comparison], statistics: Statistics) -> list[str]:
    """Say what a reader must know to read the comparisons, a sentence each."""
    tested = sum(one.p_value is not None for one in comparisons)
    notes = []
    if tested > 1:
        notes.append(
            f"Verdicts hold for all {tested} comparisons together (Holm, {statistics.alpha:g}); "
            "an interval is that of its task alone."
        )
    alone = sorted({one.task for one in comparisons if one.num_items == 1})
    if alone:
        notes.append(
            f"{', '.join(alone)}: one document tells nothing of others; give .jsonl with many."
        )
    runs = {one.num_runs for one in comparisons}
    if (1, 1) in runs:
        notes.append(
            "A verdict on single models is on these models; of the methods that made them only "
            "several runs tell (LABEL=MODEL)."
        )
    return notes


def _gains(title: str, comparisons: Sequence[Comparison], level: float) -> Section:
    columns = [
        "task",
        "metric",
        "better is",
        "items",
        "before",
        "after",
        "score before",
        "score after",
        "difference",
        f"{level:.0%} interval, low",
        f"{level:.0%} interval, high",
        "p",
        "corrected p",
        "verdict",
        "smallest difference it could show",
    ]
    rows = [
        [
            one.task,
            one.metric,
            "higher" if one.higher_is_better else "lower",
            one.num_items,
            _with_runs(one.before_name, one.num_runs[0]),
            _with_runs(one.after_name, one.num_runs[1]),
            one.before,
            one.after,
            one.difference,
            *(one.interval or (None, None)),
            one.p_value,
            one.corrected_p,
            one.verdict,
            one.smallest_difference,
        ]
        for one in comparisons
    ]
    return Section(title=title, type="table", data={"columns": columns, "rows": rows})


def _metrics(
    candidates: Sequence[Candidate], scores: Mapping[str, Sequence[ItemScores]]
) -> list[dict[str, object]]:
    """For model cards: the scores of every model, each with the model that it is of."""
    return [
        {
            "task": "text-generation" if candidate.images is None else "image-classification",
            "dataset": name,
            "metric": own[row].metric,
            "value": own[row].score,
            "model": candidate.identity,
        }
        for row, candidate in enumerate(candidates)
        # With the head of before it is not the model that its folder holds.
        if candidate.images is None or not candidate.images.restores
        for name, own in scores.items()
    ]


def _with_runs(name: str, runs: int) -> str:
    return name if runs == 1 else f"{name} ({runs} runs)"


def _gains_by_task(comparisons: Sequence[Comparison], level: float) -> list[Section]:
    """Every task's gain with its interval, one figure for each unit; above 0 is always better."""
    sections = []
    units = list(dict.fromkeys(_unit(one) for one in comparisons))
    for unit in units:
        own = [one for one in comparisons if _unit(one) == unit]
        tasks = list(dict.fromkeys(one.task for one in own))
        series = []
        for model in dict.fromkeys(one.after_name for one in own):
            mine = [one for one in own if one.after_name == model]
            ends = [_gain_interval(one) for one in mine]
            series.append(
                {
                    "name": model,
                    "x": [_gain(one) for one in mine],
                    "y": [tasks.index(one.task) for one in mine],
                    "x_interval": {"low": [a for a, _ in ends], "high": [b for _, b in ends]},
                }
            )
        data = {
            "x_label": f"gain ({unit}; above 0 is better) with its {level:.0%} interval",
            "y_label": "task",
            "y_ticks": tasks,
            "series": series,
        }
        title = "Gains by task" if len(units) == 1 else f"Gains by task: {unit}"
        sections.append(Section(title=title, type="scatter", data=data))
    return sections


def _gain(one: Comparison) -> float:
    return one.difference if one.higher_is_better else -one.difference


def _gain_interval(one: Comparison) -> tuple[float | None, float | None]:
    if one.interval is None:
        return None, None
    low, high = one.interval
    return (low, high) if one.higher_is_better else (-high, -low)


def _changed_items(comparisons: Sequence[Comparison]) -> Section:
    rows = [
        [one.task, one.before_name, one.after_name, one.num_items, *(one.changed or ())]
        for one in comparisons
    ]
    columns = ["task", "before", "after", "items", "right only after", "right only before"]
    return Section(
        title="Items that changed", type="table", data={"columns": columns, "rows": rows}
    )


def _target_against_forgetting(
    comparisons: Sequence[Comparison], target: set[str]
) -> list[Section]:
    """Gain on the target against gain on the rest, one figure for each pair of units.

    A share of right items and bits per byte cannot be averaged, so tasks of one unit are.
    """
    if not target:
        return []
    gains: dict[tuple[str, str, bool], list[float]] = {}
    for one in comparisons:
        key = (one.after_name, _unit(one), one.task in target)
        gains.setdefault(key, []).append(_gain(one))
    models = list(dict.fromkeys(one.after_name for one in comparisons))
    units = list(dict.fromkeys(_unit(one) for one in comparisons))
    sections = []
    for aim in units:
        for kept in units:
            points = [
                (model, gains[model, kept, False], gains[model, aim, True])
                for model in models
                if (model, kept, False) in gains and (model, aim, True) in gains
            ]
            if points:
                sections.append(_figure(aim, kept, points))
    return sections


def _figure(aim: str, kept: str, points: Sequence[tuple[str, list[float], list[float]]]) -> Section:
    series = [
        {
            "name": model,
            "x": [float(np.mean(rest))],
            "y": [float(np.mean(own))],
            "labels": [model],
        }
        for model, rest, own in points
    ]
    series.append({"name": "before", "x": [0.0], "y": [0.0], "labels": ["before"]})
    data = {
        "x_label": f"gain on the other tasks ({kept}; below 0 is forgotten)",
        "y_label": f"gain on the target ({aim})",
        "series": series,
    }
    title = "Target against forgetting"
    return Section(
        title=title if aim == kept else f"{title}: {aim} against {kept}", type="scatter", data=data
    )


def _unit(one: Comparison) -> str:
    return one.metric if one.metric == "bits per byte" else "share of items"


def _every_run(
    candidates: Sequence[Candidate], scores: Mapping[str, Sequence[ItemScores]]
) -> Section:
    rows = [
        [candidate.label, candidate.name, *(own[row].score for own in scores.values())]
        for row, candidate in enumerate(candidates)
    ]
    columns = ["label", "model", *(f"{name} ({own[0].metric})" for name, own in scores.items())]
    return Section(title="Every run", type="table", data={"columns": columns, "rows": rows})


def _models(candidates: Sequence[Candidate]) -> Section:
    rows = [
        [one.label, one.name, one.num_parameters, one.dtype, one.identity[:12]]
        for one in candidates
    ]
    columns = ["label", "model", "parameters", "dtype", "identity"]
    return Section(title="Models", type="table", data={"columns": columns, "rows": rows})


def appendix(plan: EvaluationPlan, seconds: float) -> list[Section]:
    """Tell what each model's tasks took, whenever they ran, and how the results came about.

    Args:
        plan: whose results are all there.
        seconds: that this call took.
    """
    cost = [
        [
            candidate.label,
            task.name,
            task.num_items,
            plan.store.seconds(candidate, task.name, task.fingerprint),
        ]
        for candidate in plan.candidates
        for task in plan.tasks
    ]
    columns = ["model", "task", "items", "seconds"]
    return [
        Section(title="Cost", type="table", data={"columns": columns, "rows": cost}),
        account(plan.config, seconds=seconds, items=sum(task.num_items for task in plan.tasks)),
    ]
