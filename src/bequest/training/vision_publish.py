"""What fine-tuning on images is worth: carried out, measured, and handed on to be published."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.checkpoints.account import account
from bequest.evaluation.image_accuracy import (
    Flags,
    Floats,
    cross_entropies,
    hardest,
    is_right,
)
from bequest.evaluation.image_data import labels_of
from bequest.results import Section
from bequest.training.vision_folder import publish
from bequest.training.vision_model import ImageClassifier, restored
from bequest.training.vision_plan import ImagePlan
from bequest.training.vision_protocol import Stages, Tell, run_stages

HARD = 0.1
"""The share of test images that count as hard: those on which the probe's loss is largest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracies:
    """Which images a run's models are right on."""

    target: dict[str, Flags]
    """On the test images, of `probe` and `final`."""
    retained: dict[str, Flags]
    """On what is to be retained, of `start` and `final`, the latter with its original head and
    BatchNorm's original weights and statistics."""
    hard: Flags
    """Which test images are hard; empty without any."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRun:
    """What came of a run."""

    model: ImageClassifier
    """The fine-tuned model with its new head."""
    temperature: float
    """In nats."""
    accuracies: Accuracies
    """What was measured."""
    sections: list[Section]
    """What `results.json` holds."""


def finetune_images(plan: ImagePlan, *, tell: Tell = lambda _: None) -> ImageRun:
    """Carry a plan out, measure, and publish the model.

    Args:
        plan: from `plan_images`.
        tell: called with a sentence now and then.

    Returns:
        The model and what was measured on it.

    Raises:
        InputError: the run's folder holds another run, or is in use.
        BequestError: training ended with weights that are not finite.
        StorageError: the disk is full or failed.
    """
    started = time.monotonic()
    stages = run_stages(plan, tell=tell)
    accuracies = measure(plan, stages)
    sections = sections_of(accuracies, stages)
    seconds = time.monotonic() - started
    sections.append(account(plan.config, seconds=seconds, images=len(plan.train)))
    publish(plan, stages.final, stages.temperature, sections)
    return ImageRun(
        model=stages.final,
        temperature=stages.temperature,
        accuracies=accuracies,
        sections=sections,
    )


def measure(plan: ImagePlan, stages: Stages) -> Accuracies:
    """Measure what was learned and what was kept.

    Args:
        plan: of the run.
        stages: what it left.
    """
    target: dict[str, Flags] = {}
    hard = np.zeros(0, dtype=bool)
    if plan.test is not None:
        target["probe"], losses = on_target(plan, stages.probe)
        target["final"], _ = on_target(plan, stages.final)
        hard = hardest(losses, HARD)
    retained: dict[str, Flags] = {}
    if plan.retention is not None:
        retained["start"] = on_retention(plan, plan.start)
        retained["final"] = on_retention(plan, stages.final)
    return Accuracies(target=target, retained=retained, hard=hard)


def on_target(plan: ImagePlan, model: ImageClassifier) -> tuple[Flags, Floats]:
    """Return on which test images a model is right, and its losses on them in nats.

    Args:
        plan: of a run with test images.
        model: with a head for their classes.
    """
    assert plan.test is not None
    logits, labels = plan.read(model, plan.test).double().numpy(), labels_of(plan.test)
    return is_right(logits, labels), cross_entropies(logits, labels)


def on_retention(plan: ImagePlan, model: ImageClassifier) -> Flags:
    """Return on which images of retention a model's body is right with what is put back into it.

    Args:
        plan: of a run with `retention`.
        model: with any head; the original one and BatchNorm's original weights and statistics are
            used.
    """
    assert plan.retention is not None and plan.classes is not None
    scores = plan.read(restored(model, plan.start), plan.retention).double().numpy()
    return plan.classes.right(scores, labels_of(plan.retention))


def sections_of(accuracies: Accuracies, stages: Stages) -> list[Section]:
    """Return the sections of a run's `results.json`."""
    target, retained, hard = accuracies.target, accuracies.retained, accuracies.hard
    before = [_mean(target.get("probe")), _mean(retained.get("start"))]
    after = [_mean(target.get("final")), _mean(retained.get("final"))]
    rows: list[list[Any]] = [
        ["accuracy on the target", before[0], after[0]],
        [
            "accuracy on its hardest tenth",
            _hard(target, "probe", hard),
            _hard(target, "final", hard),
        ],
        ["accuracy retained", before[1], after[1]],
        ["mean of target and retained", _middle(before), _middle(after)],
    ]
    rows = [row for row in rows if row[2] is not None]
    rows.append(["temperature (nats)", None, stages.temperature])
    sections = [
        Section(
            title="Fine-tuning on images",
            type="table",
            data={"columns": ["what", "probe", "fine-tuned"], "rows": rows},
        )
    ]
    logged = [entry for entry in stages.log if "loss" in entry]
    if logged:
        series = {
            "name": "training loss",
            "x": [entry["step"] for entry in logged],
            "y": [float(entry["loss"]) for entry in logged],
        }
        data = {"x_label": "step", "y_label": "loss, weighted (nats)", "series": [series]}
        sections.append(Section(title="Loss", type="lines", data=data))
    return sections


def _mean(right: Flags | None) -> float | None:
    return None if right is None else float(right.mean())


def _hard(target: dict[str, Flags], name: str, hard: Flags) -> float | None:
    return float(target[name][hard].mean()) if name in target else None


def _middle(pair: list[float | None]) -> float | None:
    known = [value for value in pair if value is not None]
    return sum(known) / 2 if len(known) == 2 else None
