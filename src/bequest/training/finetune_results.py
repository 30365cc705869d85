"""What a fine-tuning run says of itself: its plan, its curves, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bequest.results import Section
from bequest.training.finetune_cost import Cost
from bequest.training.finetune_plan import FinetunePlan
from bequest.training.retention_callback import METRIC


def plan_section(plan: FinetunePlan, cost: Cost) -> Section:
    """Return what will be done and what it will take, as a table."""
    args, scoring = plan.args, plan.scoring
    num_tokens = scoring.num_tokens
    held_out = 0 if plan.held_out is None else len(plan.held_out.labels)
    rows: list[list[Any]] = [
        ["model", plan.location.name],
        ["parameters", scoring.num_parameters],
        ["parameters trained", plan.num_trained],
        ["dtype of the weights", str(plan.dtype).removeprefix("torch.")],
        ["samples", len(num_tokens)],
        ["  truncated", int(scoring.tokenized.truncated.sum())],
        ["  without a response token (left out)", num_tokens.count(0)],
        ["samples held out", held_out],
        ["response tokens", sum(num_tokens)],
        ["tokens trained on", cost.tokens],
        ["optimizer steps", plan.num_steps],
        ["goes on after step", plan.resume.step],
        ["samples a step", args.train_batch_size * args.gradient_accumulation_steps
         * args.world_size],
        ["estimated time (seconds)", round(cost.seconds, 1)],
    ]  # fmt: skip
    if plan.scores_file is not None:
        rows.append(["estimated time of scoring (seconds)", round(cost.scoring_seconds, 1)])
    rows += [
        ["estimated memory (GB)", cost.num_bytes / 1e9],
        ["  weights", cost.weights / 1e9],
        ["  gradients and optimizer", cost.gradients / 1e9],
        ["  activations", cost.activations / 1e9],
    ]
    if cost.averages:
        rows.append(["  averages", cost.averages / 1e9])
    rows += [["run", str(plan.run)], ["out", str(plan.target)]]
    return Section(title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows})


def run_sections(
    plan: FinetunePlan, state: Mapping[str, Any], scored: Sequence[Section]
) -> list[Section]:
    """Return the sections of a finished run's `results.json`.

    Args:
        plan: of the run.
        state: what the trainer wrote into the last checkpoint.
        scored: the sections of the score file.
    """
    log = state["log_history"]
    losses = _curves(
        log, {"loss": "training loss, weighted" if _weighted(plan) else "training loss"}
    )
    names = {"eval_loss": "held-out loss"}
    names |= {f"eval_{name}_loss": f"held-out loss, {name}" for name in plan.recipes}
    losses += _curves(log, names)
    sections = [_outcome(plan, state)]
    if losses:
        sections.append(_lines("Loss", "loss (nats/token)", losses))
    kept = _curves(log, {METRIC: "held-out text"})
    if kept:
        sections.append(_lines("Retention", "bits per byte", kept))
    return [*sections, *scored]


def _outcome(plan: FinetunePlan, state: Mapping[str, Any]) -> Section:
    log = state["log_history"]
    rows: list[list[Any]] = [["step", 0, state["global_step"]]]
    wanted = {"loss": "training loss", "eval_loss": "held-out loss (nats/token)"}
    wanted |= {f"eval_{name}_loss": f"held-out loss, {name} (nats/token)" for name in plan.recipes}
    wanted[METRIC] = "retention (bits per byte)"
    for key, label in wanted.items():
        values = [entry[key] for entry in log if _finite(entry.get(key))]
        if values:
            rows.append([label, values[0], values[-1]])
    return Section(
        title="Run", type="table", data={"columns": ["what", "first", "last"], "rows": rows}
    )


def _curves(log: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for key, name in names.items():
        # Asked for twice at a step, the last one counts.
        points = {entry["step"]: entry[key] for entry in log if _finite(entry.get(key))}
        if points:
            found.append({"name": name, "x": list(points), "y": list(points.values())})
    return found


def _lines(title: str, label: str, series: Sequence[Mapping[str, Any]]) -> Section:
    data = {"x_label": "step", "y_label": label, "series": list(series)}
    return Section(title=title, type="lines", data=data)


def _weighted(plan: FinetunePlan) -> bool:
    return plan.config.method.scheme != "uniform"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
