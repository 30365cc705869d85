"""FLOW's protocol for images: probe, weighted fine-tuning, head again, accuracy before and after.

    0  probe   a new head on the frozen body; the temperature is the median of its training losses
    1  body    all parameters, weighted by the frozen probe on the same augmented batch
    2  head    the head once more, with the plain loss, on the body that stage 1 left

A finished stage is kept by a hash of all that it depends on, and taken up by every run that needs
the same; the body's training goes on from its newest checkpoint.

Source: FLOW, arXiv 2502.02797, and its released code for images.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bequest.checkpoints.whole_file import whole_file
from bequest.errors import BequestError, InputError
from bequest.evaluation.image_data import class_names, labels_of
from bequest.training.run_folder import MADE, opened
from bequest.training.vision_data import ImageBatches
from bequest.training.vision_model import ImageClassifier, blended, new_head
from bequest.training.vision_plan import ImagePlan
from bequest.training.vision_stages import train_body, train_head

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stages:
    """What the three stages left."""

    probe: ImageClassifier
    """The pre-trained body with the probe's head."""
    temperature: float
    """Median training loss of the probe in nats, or what the configuration says instead."""
    final: ImageClassifier
    """The result."""
    log: list[dict[str, Any]]
    """What the trainer logged in stage 1."""


def run_stages(plan: ImagePlan, *, tell: Tell = lambda _: None) -> Stages:
    """Carry the three stages out, or take up those that are done.

    Args:
        plan: from `plan_images`.
        tell: called with a sentence now and then.

    Raises:
        InputError: the run's folder holds another run, or is in use.
        BequestError: training ended with weights that are not finite.
        StorageError: the disk is full or failed.
    """
    config = plan.config
    with opened(
        config.run_folder,
        plan.identity,
        packages=("torch", "transformers"),
        overwrite=config.overwrite,
        made=(*MADE, "stages"),
    ) as start:
        for note in start.notes:
            tell(note)
        probe, temperature = _probe(plan, tell)
        if config.method.linear_probe:
            return Stages(probe=probe, temperature=temperature, final=probe, log=[])
        body, log = _body(plan, probe, temperature, start.checkpoint, tell)
        final = _head(plan, probe, body, tell)
    return Stages(probe=probe, temperature=temperature, final=final, log=log)


def _probe(plan: ImagePlan, tell: Tell) -> tuple[ImageClassifier, float]:
    file = _stage_file(plan, "probe", ("data", "model", "head_training", "seed"))
    head = new_head(plan.start, len(class_names(plan.train)), plan.config.seed)
    if not file.is_file():
        tell("Stage 0: a probe on the frozen body.")
        features = plan.read(plan.start, plan.train, features=True)
        losses = train_head(head, features, labels_of(plan.train), copy.deepcopy(plan.head_args))
        _write(file, head, {"median": float(np.median(losses))})
    told = _read(file, head)
    asked = plan.config.method.temperature
    temperature = told["median"] if asked in (None, "median") else float(str(asked))
    if not temperature > 0:
        raise InputError(
            f"the probe's median loss is {temperature:g} and cannot be a temperature; set "
            "method.temperature to a number above 0"
        )
    return plan.start.with_head(head), temperature


def _body(
    plan: ImagePlan,
    probe: ImageClassifier,
    temperature: float,
    checkpoint: Path | None,
    tell: Tell,
) -> tuple[ImageClassifier, list[dict[str, Any]]]:
    method = plan.config.method
    file = _stage_file(
        plan,
        "body",
        ("data", "model", "head_training", "seed", "training", "augment", "weights", "l2"),
    )
    body = copy.deepcopy(probe)
    if not file.is_file():
        weighted = method.scheme != "uniform"
        kind = f"weighted, temperature {temperature:.4g} nats" if weighted else "plain"
        tell(f"Stage 1: all parameters, {kind}.")
        trained, log = train_body(
            probe,
            plan.train,
            ImageBatches(plan.processor, plan.config.augment, plan.config.seed),
            plan.body_args,
            temperature=temperature if weighted else None,
            l2=method.l2,
            checkpoint=checkpoint,
        )
        _write(file, trained, {"log": log})
    told = _read(file, body)
    return body, told["log"]


def _head(
    plan: ImagePlan, probe: ImageClassifier, body: ImageClassifier, tell: Tell
) -> ImageClassifier:
    share = plan.config.method.wise_ft
    if share is not None:
        body = blended(body, probe, share)
    head = copy.deepcopy(body.head)
    file = _stage_file(plan, "head", tuple(plan.identity))
    if not file.is_file():
        tell("Stage 2: the head again, on the body as it is now.")
        features = plan.read(body, plan.train, features=True)
        losses = train_head(head, features, labels_of(plan.train), copy.deepcopy(plan.head_args))
        _write(file, head, {"median": float(np.median(losses))})
    _read(file, head)
    return body.with_head(head)


def _stage_file(plan: ImagePlan, stage: str, parts: tuple[str, ...]) -> Path:
    """Name a stage's file by all that its weights depend on."""
    known = json.dumps({part: plan.identity[part] for part in parts}, sort_keys=True)
    name = hashlib.sha256(f"{stage} {known}".encode()).hexdigest()[:16]
    return plan.config.stages_folder / f"{stage}-{name}.safetensors"


def _write(file: Path, module: nn.Module, told: Mapping[str, Any]) -> None:
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    broken = [
        key for key, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())
    ]
    if broken:
        raise BequestError(
            f"training ended with {broken[0]} not finite; lower the learning rate and start anew "
            "with --overwrite"
        )
    with whole_file(file) as path:
        save_file(state, path, metadata={"bequest": json.dumps(dict(told))})


def _read(file: Path, module: nn.Module) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        module.load_state_dict({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
        told: dict[str, Any] = json.loads(opened.metadata()["bequest"])
    return told
