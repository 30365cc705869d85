"""The finished folder of a fine-tuned classifier of images: written, verified, with its lineage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.companions import companion_files, copy_companions
from bequest.checkpoints.header import read_header
from bequest.checkpoints.lineage import command_line, describe_file, describe_input, write_lineage
from bequest.checkpoints.model_card import write_model_card
from bequest.checkpoints.model_identity import ORIGINAL
from bequest.checkpoints.publish import require_space, staged_folder
from bequest.errors import BequestError
from bequest.evaluation.image_data import class_names
from bequest.results import Section, write_results
from bequest.training.finetuned_folder import check_finite, check_loads, describe_data
from bequest.training.vision_model import ImageClassifier
from bequest.training.vision_plan import ImagePlan

_WEIGHTS = "model.safetensors"


def publish(
    plan: ImagePlan, final: ImageClassifier, temperature: float, sections: list[Section]
) -> None:
    """Write the model's folder, whole or not at all: `from_pretrained` loads it, or it is a state
    dict of a module of one's own.

    Args:
        plan: of the run.
        final: the fine-tuned model.
        temperature: of its weights, in nats.
        sections: of `results.json`.

    Raises:
        BequestError: the weights are not finite, or would not load whole.
        StorageError: the disk is full or failed.
    """
    network: Any = final.network
    names = class_names(plan.train)
    # What a function made may be a model of transformers that its auto classes do not know.
    whole = plan.source.location is not None or _is_known(network)
    kept = {
        key.removeprefix("network."): value.contiguous()
        for key, value in plan.start.state_dict().items()
        if plan.start.is_of_head(key) or key in plan.start.normalization_keys()
    }
    require_space(plan.target, _num_bytes(network.state_dict()) + _num_bytes(kept))
    location = plan.source.location
    with staged_folder(plan.target, overwrite=plan.config.overwrite) as folder:
        if whole:
            network.config.id2label = dict(enumerate(names))
            network.config.label2id = {name: number for number, name in enumerate(names)}
            network.save_pretrained(folder)
            if hasattr(plan.processor, "save_pretrained"):
                plan.processor.save_pretrained(folder)
        else:
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(state, folder / _WEIGHTS)
        if location is not None:
            there = {path.name for path in folder.iterdir()}
            missing = [f for f in companion_files(location.folder) if f.name not in there]
            copy_companions(location.folder, folder, missing)
        check_finite(folder)
        if whole:
            trust = plan.config.trust_remote_code
            check_loads(folder, AutoModelForImageClassification, trust_remote_code=trust)
        else:
            _check_state(folder / _WEIGHTS, network.state_dict())
        save_file(kept, folder / ORIGINAL)
        write_model_card(
            folder,
            title=plan.target.name,
            source=folder if location is None else location.folder,
            repo_id=None if location is None else location.repo_id,
            paragraphs=_card(plan, temperature),
            library="transformers" if whole else "pytorch",
        )
        write_results(folder, command_line(), sections)
        write_lineage(
            folder,
            operation="finetune",
            settings={**plan.identity, "temperature": temperature, "classes": names},
            inputs=_inputs(plan),
            outputs=[path for path in folder.rglob("*") if path.is_file()],
            full_hash=plan.config.hash,
        )


def _is_known(network: Any) -> bool:
    known = isinstance(network, PreTrainedModel)
    return known and type(network.config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def _num_bytes(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())


def _check_state(file: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse a file that does not hold a module's state whole."""
    entries, _ = read_header(file)
    found = {entry.name: tuple(entry.shape) for entry in entries}
    wanted = {key: tuple(value.shape) for key, value in state.items()}
    if found != wanted:
        odd = min(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise BequestError(
            f"{file.name} would not load whole: {odd} differs; nothing was published"
        )


def _inputs(plan: ImagePlan) -> list[dict[str, Any]]:
    config, location = plan.config, plan.source.location
    if location is None:
        code = plan.source.code
        model: dict[str, Any] = {
            "role": "model",
            "name": config.model,
            "weights": plan.identity["model"]["weights"],
            "files": [] if code is None else [describe_file(code, full_hash=config.hash)],
        }
    else:
        opened = open_checkpoint(location.folder, field="model")
        source = dataclasses.replace(opened, location=location)
        model = describe_input(source, "model", full_hash=config.hash)
    named = {
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "retention.data": config.retention.data,
        "retention.groups": config.retention.groups,
    }
    return [model, *describe_data(named, full_hash=config.hash)]


def _card(plan: ImagePlan, temperature: float) -> list[str]:
    config, method, args = plan.config, plan.config.method, plan.body_args
    location = plan.source.location
    base = config.model if location is None else location.repo_id or location.folder.name
    probed = method.linear_probe
    scheme = "linear probe" if probed else method.scheme or "flow"
    extras = [f"{name} {getattr(method, name):g}" for name in ("l2", "wise_ft")
              if getattr(method, name)]  # fmt: skip
    rows: list[tuple[str, Any]] = [
        ("data", Path(config.data.train).name),
        ("images", len(plan.train)),
        ("classes", len(class_names(plan.train))),
        ("method", ", ".join([scheme, *extras])),
    ]
    if not probed:
        rows += [
            ("temperature (nats)", f"{temperature:.4g}"),
            ("augmentation", config.augment),
            ("learning rate", args.learning_rate),
            ("epochs", f"{args.num_train_epochs:g}"),
        ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return [
        f"Fine-tuned from `{base}` with `bequest finetune`.",
        f"| | |\n|---|---|\n{table}",
        f"`{ORIGINAL}` holds the head of before, and BatchNorm's weights and statistics: `bequest "
        "evaluate --original-head` measures the old task with them.",
        "FLOW is arXiv 2502.02797. `bequest.json` holds the lineage; `bequest lineage FOLDER` "
        "verifies it. `results.json` holds what was measured.",
    ]
