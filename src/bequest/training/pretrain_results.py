"""A pre-training run as sections of results.json: what was done, and its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bequest.results import Section
from bequest.training.average_recipes import TRAINED
from bequest.training.held_out_losses import HeldOutLosses
from bequest.training.pretrain_plan import PretrainPlan
from bequest.training.run_length import RunLength
from bequest.training.throughput import Throughput

_SIGMAS = 1.96
Log = Sequence[Mapping[str, Any]]


def planned_section(plan: PretrainPlan) -> Section:
    """Say what a run will do, as a dry run prints it."""
    length, about = plan.length, "" if plan.length.exact else " (estimated)"
    model, logits = plan.memory()
    least = plan.least_seconds()
    rows: list[list[Any]] = [
        ["parameters", plan.num_parameters],
        ["documents to train on", len(plan.documents.training)],
        ["documents held out", len(plan.documents.held_out)],
        [f"tokens of training text{about}", length.training_tokens],
        [f"tokens held out{about}", length.held_out_tokens],
        ["tokens a step", length.tokens_per_step],
        [f"steps{'' if plan.arguments.max_steps > 0 else about}", length.steps],
        ["tokens read", length.tokens_trained],
        [f"epochs{about}", length.epochs],
        ["goes on after step", plan.resume.step],
        ["memory of weights, gradients, optimizer (GB)", model / 1e9],
        ["memory of a micro-batch's logits, at most (GB)", logits / 1e9],
        ["disk of the run's checkpoints, at most (GB)", plan.disk().run / 1e9],
    ]
    if plan.teacher is not None:
        taught = plan.num_teacher_parameters
        rows.insert(1, ["parameters of the teacher", taught])
        rows.append(["memory of the teacher (GB)", 4 * taught / 1e9])
    if least is not None:
        rows.append(["seconds at the device's full arithmetic, at least", least])
    return _table("Plan", ["what", "value"], rows)


def pretrain_sections(
    plan: PretrainPlan,
    length: RunLength,
    losses: Mapping[str, HeldOutLosses],
    log: Log,
    throughput: Throughput,
) -> list[Section]:
    """Return the tables and curves of a finished run."""
    sections = [_held_out_table(losses, plan.config.weights), _run_table(plan, length, throughput)]
    names = list(losses)
    for metric, title, label in (
        ("loss", "Held-out loss", "loss (nats/token)"),
        ("bits_per_byte", "Held-out bits per byte", "bits per byte"),
    ):
        series = [_evaluations(log, name, metric) for name in names]
        sections.append(_lines(title, label, [one for one in series if one["x"]]))
    for key, title, label in (
        ("loss", "Training loss", "loss (nats/token)"),
        *([("kl", "KL to the teacher", "KL (nats/token)")] if plan.teacher is not None else ()),
        ("learning_rate", "Learning rate", "learning rate"),
        ("tokens_per_second", "Speed", "tokens per second"),
    ):
        points = {
            int(entry["step"]): entry[key] for entry in log if key in entry and "loss" in entry
        }
        values = [value if math.isfinite(value) else None for value in points.values()]
        line = {"name": key.replace("_", " "), "x": list(points), "y": values}
        sections.append(_lines(title, label, [line] if points else []))
    return sections


def _held_out_table(losses: Mapping[str, HeldOutLosses], published: str) -> Section:
    rows = []
    for name, one in losses.items():
        row: list[Any] = [name, _finite(one.loss), _finite(one.loss_error)]
        row += [_finite(one.bits_per_byte), _finite(one.bits_per_byte_error), name == published]
        rows.append(row)
    columns = ["weights", "loss (nats/token)", "standard error", "bits per byte", "standard error"]
    return _table("Held out", [*columns, "published"], rows)


def _run_table(plan: PretrainPlan, length: RunLength, throughput: Throughput) -> Section:
    rows: list[list[Any]] = [
        ["parameters", plan.num_parameters],
        ["steps", length.steps],
        ["tokens a step", length.tokens_per_step],
        ["tokens read", length.tokens_trained],
        ["epochs", length.epochs],
        ["tokens of training text", length.training_tokens],
        ["tokens held out", length.held_out_tokens],
        ["tokens per second", throughput.tokens_per_second],
        ["model FLOP utilisation", throughput.utilisation],
    ]
    return _table("Run", ["what", "value"], rows)


def _evaluations(log: Log, name: str, metric: str) -> dict[str, Any]:
    prefix = "eval_" if name == TRAINED else f"eval_{name}_"
    # A step that is evaluated twice counts once.
    found = {int(entry["step"]): entry for entry in log if f"{prefix}{metric}" in entry}
    y = [entry[f"{prefix}{metric}"] for entry in found.values()]
    line: dict[str, Any] = {"name": name, "x": list(found), "y": list(map(_finite, y))}
    errors = [entry.get(f"{prefix}{metric}_error", math.nan) for entry in found.values()]
    if found and all(map(math.isfinite, [*y, *errors])):
        line["interval"] = {
            "low": [value - _SIGMAS * error for value, error in zip(y, errors, strict=True)],
            "high": [value + _SIGMAS * error for value, error in zip(y, errors, strict=True)],
        }
    return line


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _lines(title: str, label: str, series: list[dict[str, Any]]) -> Section:
    return Section(
        title=title, type="lines", data={"x_label": "step", "y_label": label, "series": series}
    )


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> Section:
    return Section(title=title, type="table", data={"columns": columns, "rows": rows})
