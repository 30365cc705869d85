"""From the last checkpoint of a fine-tuning run to the finished model folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bequest.checkpoints.account import account
from bequest.checkpoints.checkpoint import open_checkpoint, read_json
from bequest.checkpoints.companions import companion_files, copy_companions
from bequest.checkpoints.formats import ADAPTER_CONFIG
from bequest.checkpoints.lineage import (
    command_line,
    describe_input,
    write_lineage,
)
from bequest.checkpoints.model_card import write_model_card
from bequest.checkpoints.publish import require_space, staged_folder
from bequest.papers import cited
from bequest.results import ACCOUNT, FILE_NAME, Section, write_results
from bequest.training.average_recipes import TRAINED
from bequest.training.finetune_plan import FinetunePlan
from bequest.training.finetune_results import run_sections
from bequest.training.finetuned_folder import check_finite, check_loads, describe_data
from bequest.training.run_folder import trainer_state

_NOT_THE_MODEL = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    "README.md",
    "averaging",
    "global_step*",
    "latest",
)
"""What a checkpoint holds to be resumed from."""


def publish(plan: FinetunePlan, checkpoint: Path, weights: Path, started: float) -> list[Section]:
    """Write the finished model, whole or not at all.

    Args:
        plan: of the run.
        checkpoint: the last of the run.
        weights: the folder, in or below a checkpoint, whose weights are taken.
        started: `time.monotonic()` when this call began.

    Returns:
        The sections of its `results.json`.

    Raises:
        BequestError: the weights are not finite, or transformers would not load them whole.
        StorageError: the disk is full or failed.
    """
    state = trainer_state(checkpoint)
    sections = run_sections(plan, state, _score_sections(plan))
    size = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
    require_space(plan.target, 2 * size if plan.config.merge else size)
    check_finite(weights)
    with staged_folder(plan.target, overwrite=plan.config.overwrite) as staging:
        _lay_out(plan, weights, staging)
        _verify(plan, staging)
        write_model_card(
            staging,
            title=plan.target.name,
            source=plan.location.folder,
            repo_id=plan.location.repo_id,
            paragraphs=_card(plan, state),
            library="peft" if _is_adapter(staging) else "transformers",
            relation="adapter" if _is_adapter(staging) else "finetune",
        )
        sections.append(
            account(
                plan.config,
                seconds=time.monotonic() - started,
                samples=len(plan.lengths),
                tokens=round(plan.num_tokens * state["epoch"]),
            )
        )
        write_results(staging, command_line(), sections)
        write_lineage(
            staging,
            operation="finetune",
            settings=_settings(plan, state, weights),
            inputs=_inputs(plan),
            outputs=[path for path in staging.rglob("*") if path.is_file()],
            full_hash=plan.config.hash,
        )
    return sections


def _lay_out(plan: FinetunePlan, weights: Path, staging: Path) -> None:
    """Put the model and what travels with it into the folder."""
    made = _made(plan, weights)
    if made is not None:
        made.save_pretrained(staging)
    shutil.copytree(
        weights,
        staging,
        dirs_exist_ok=True,
        # Not the mode: safetensors writes files that only their owner can read.
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns(
            *_NOT_THE_MODEL,
            *(("adapter_*", "*.safetensors*", "config.json") if made is not None else ()),
        ),
    )
    # What the trainer saved, the tokenizer above all, is newer than the source's.
    source = plan.location.folder
    missing = [name for name in companion_files(source) if not (staging / name).exists()]
    copy_companions(source, staging, missing)
    if _is_adapter(staging):
        # PEFT writes down the folder that the hub's client keeps the model in.
        adapter = read_json(staging / ADAPTER_CONFIG)
        adapter |= {
            "base_model_name_or_path": plan.location.name,
            "revision": plan.location.revision,
        }
        text = json.dumps(adapter, indent=2, sort_keys=True)
        (staging / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def _made(plan: FinetunePlan, weights: Path) -> Any:
    """Return the model to be published where the run's own files are not it; None where they are."""
    share = plan.config.method.wise_ft
    if not plan.config.merge and share is None:
        return None
    start = _load(plan, plan.location.folder)
    if plan.config.merge:
        from peft import PeftModel

        adapted: Any = PeftModel.from_pretrained(start, str(weights))
        return adapted.merge_and_unload(safe_merge=True)
    assert share is not None
    trained = _load(plan, weights)
    _blend(dict(start.named_parameters()), dict(trained.named_parameters()), share)
    return trained


def _load(plan: FinetunePlan, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=plan.dtype, trust_remote_code=plan.config.trust_remote_code
    )


@torch.no_grad()
def _blend(start: dict[str, Tensor], trained: dict[str, Tensor], share: float) -> None:
    """Make each trained tensor `(1 - share) * start + share * trained`, as StartWeights does.

    Here, because a checkpoint holds the weights as they were before it.
    """
    for name, tensor in trained.items():
        tensor.copy_(start[name].double() * (1 - share) + tensor.double() * share)


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def _verify(plan: FinetunePlan, staging: Path) -> None:
    if _is_adapter(staging):
        return
    from transformers import AutoModelForCausalLM

    check_loads(staging, AutoModelForCausalLM, trust_remote_code=plan.config.trust_remote_code)


def _score_sections(plan: FinetunePlan) -> list[Section]:
    """Return what scoring wrote down about the weights."""
    if plan.scores_file is None:
        return []
    file = plan.scores_file.with_suffix("") / FILE_NAME
    if not file.is_file():
        return []
    sections = [Section(**section) for section in read_json(file)["sections"]]
    # Its account is the scoring's; the run has one of its own.
    return [section for section in sections if section.title != ACCOUNT]


def _settings(plan: FinetunePlan, state: dict[str, Any], weights: Path) -> dict[str, Any]:
    asked = {**dict(plan.identity), "weights": plan.config.weights, "merge": plan.config.merge}
    return {
        **asked,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "steps": state["global_step"],
        "parameters_trained": plan.num_trained,
        "published_from": str(weights.relative_to(plan.run)),
    }


def _inputs(plan: FinetunePlan) -> list[dict[str, Any]]:
    config, full_hash = plan.config, plan.config.hash
    source = dataclasses.replace(
        open_checkpoint(plan.location.folder, field="model"), location=plan.location
    )
    described = [describe_input(source, "model", full_hash=full_hash)]
    named = {
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "method.scores": config.method.scores,
        "retention.texts": config.retention.texts,
    }
    return described + describe_data(named, full_hash=full_hash)


def _card(plan: FinetunePlan, state: dict[str, Any]) -> Sequence[str]:
    config, args = plan.config, plan.args
    base = plan.location.repo_id or plan.location.folder.name
    rows: Iterator[tuple[str, Any]] = iter(
        [
            ("data", Path(config.data.train).name),
            ("samples", len(plan.lengths)),
            ("method", describe_method(plan)),
            ("steps", state["global_step"]),
            ("learning rate", args.learning_rate),
            ("parameters trained", plan.num_trained),
            ("weights published", config.weights),
        ]
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return [
        f"Fine-tuned from `{base}` with `bequest finetune`.",
        f"| | |\n|---|---|\n{table}",
        cited(*_papers(plan)),
    ]


def _papers(plan: FinetunePlan) -> Iterator[str]:
    """Name what the run is made of, as keys of `bequest.papers`."""
    config, method = plan.config, plan.config.method
    if plan.given_weights is None and _scheme(plan) != "uniform":
        yield _scheme(plan).removesuffix("-token")
    yield from (name for name in ("l2", "kl", "sfa", "wise_ft") if getattr(method, name))
    if config.lora is not None:
        yield "lora"
    if config.weights != TRAINED:
        yield plan.recipes[config.weights].paper


def _scheme(plan: FinetunePlan) -> str:
    """Return the scheme of the run's weights: what was asked for, else the score file's own."""
    own = getattr(plan.weighing.scores, "metadata", {}).get("scheme")
    return str(plan.config.method.scheme or own or "flow")


def describe_method(plan: FinetunePlan) -> str:
    """Name the method in a few words, such as "flow, l2 0.001, LoRA"."""
    method = plan.config.method
    parts = ["weights of the data" if plan.given_weights else _scheme(plan)]
    default = type(method)()
    parts += [
        f"{field.name} {getattr(method, field.name)}"
        for field in dataclasses.fields(method)
        if field.name not in ("scheme", "scores")
        and getattr(method, field.name) != getattr(default, field.name)
    ]
    return ", ".join([*parts, "LoRA"] if plan.config.lora is not None else parts)
