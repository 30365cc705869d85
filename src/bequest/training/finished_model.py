"""The finished folder of a pre-training run, but for the weights: card, results, losses, lineage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest.checkpoints.companions import companion_files, copy_companions
from bequest.checkpoints.lineage import command_line, describe_input, write_lineage
from bequest.checkpoints.model_card import write_model_card
from bequest.papers import cited
from bequest.results import Section, write_results
from bequest.training.average_recipes import TRAINED
from bequest.training.held_out_losses import HeldOutLosses, save_losses
from bequest.training.pretrain_plan import PretrainPlan
from bequest.training.run_length import RunLength


def write_finished(
    folder: Path,
    plan: PretrainPlan,
    length: RunLength,
    losses: Mapping[str, HeldOutLosses],
    sections: Sequence[Section],
) -> None:
    """Complete a folder that holds the trained model and its tokenizer.

    Raises:
        OSError: reading or writing failed.
    """
    # A pickle that only the trainer reads.
    (folder / "training_args.bin").unlink(missing_ok=True)
    # From scratch, the model has only its shape from elsewhere: neither base, licence nor files.
    location = plan.start.location if plan.start.checkpoint is not None else None
    if location is not None:
        there = {path.name for path in folder.iterdir()}
        missing = [path for path in companion_files(location.folder) if path.name not in there]
        copy_companions(location.folder, folder, missing)
    save_losses(folder, dict(losses))
    write_model_card(
        folder,
        title=plan.target.name,
        source=location.folder if location is not None else folder,
        repo_id=location.repo_id if location is not None else None,
        paragraphs=_card(plan, length, losses),
    )
    write_results(folder, command_line(), sections)
    inputs = []
    if plan.start.checkpoint is not None:
        inputs = [describe_input(plan.start.checkpoint, "start", full_hash=plan.config.hash)]
    if plan.teacher is not None and plan.teacher.checkpoint is not None:
        inputs += [describe_input(plan.teacher.checkpoint, "teacher", full_hash=plan.config.hash)]
    write_lineage(
        folder,
        operation="pretrain",
        settings=_settings(plan, length),
        inputs=inputs,
        outputs=[path for path in folder.rglob("*") if path.is_file()],
        full_hash=plan.config.hash,
    )


def _settings(plan: PretrainPlan, length: RunLength) -> dict[str, Any]:
    # What came of it first: a picture has room for the first few.
    done = {"steps": length.steps, "tokens_read": length.tokens_trained}
    settings = done | dataclasses.asdict(plan.config)
    settings["training"] = dict(plan.settings)
    settings["documents"] = {
        "fingerprint": plan.documents.fingerprint,
        "training": len(plan.documents.training),
        "held_out": len(plan.documents.held_out),
    }
    return settings


def _card(plan: PretrainPlan, length: RunLength, losses: Mapping[str, HeldOutLosses]) -> list[str]:
    config = plan.config
    if plan.start.location is None:
        begun = f"from scratch ({plan.start.config.model_type})"
    else:
        location = plan.start.location
        name = location.repo_id or location.folder.name
        begun = (
            f"from `{name}`" if plan.start.checkpoint else f"from scratch, in the shape of `{name}`"
        )
    which = (
        ""
        if config.weights == TRAINED
        else f" The weights are the run's `{config.weights}` average."
    )
    if plan.teacher is not None and plan.distillation is not None:
        share = f"{plan.distillation.weight:g} of the loss, temperature"
        which += (
            f" Distilled from `{Path(plan.distillation.teacher).name}` ({share} "
            f"{plan.distillation.temperature:g})."
        )
    at_most = "" if length.tokens_trained == length.steps * length.tokens_per_step else "at most "
    made = (
        f"Pre-trained {begun} with `bequest pretrain`: {length.steps:,} steps of {at_most}"
        f"{length.tokens_per_step:,} tokens, {length.tokens_trained:,} in all.{which}"
    )
    rows = [
        f"| {name} | {one.loss:.4f} | {one.bits_per_byte:.4f}"
        + (f" ({one.bits_per_byte_error:.4f}) |" if one.bits_per_byte_error is not None else " |")
        for name, one in losses.items()
    ]
    head = [
        "| weights | held-out loss (nats/token) | bits per byte (standard error) |",
        "|---|---|---|",
    ]
    papers = [] if config.weights == TRAINED else [plan.recipes[config.weights].paper]
    papers += ["distillation"] if plan.teacher is not None else []
    return [made, "\n".join([*head, *rows]), cited(*papers)]
