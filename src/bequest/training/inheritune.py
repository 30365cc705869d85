"""Inheritune's Algorithm 1 as one run: inherit, train, compare with the reference, grow, again.

Everything a round leaves is published whole or not at all: its start, its trained model with the
losses of every held-out token. So a run that was killed in any state goes on by looking at what is
there, and a round that was training goes on from its newest checkpoint.

Source: arXiv 2404.08634, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.utils import logging

from bequest.checkpoints.lineage import command_line, read_lineage
from bequest.inheritance.grow import grow
from bequest.inheritance.inherit import inherit
from bequest.results import Section, write_results
from bequest.training.held_out_losses import (
    FILE_NAME,
    HeldOutLosses,
    HeldOutMeter,
    read_losses,
    save_losses,
)
from bequest.training.inheritune_plan import InheritunePlan
from bequest.training.inheritune_stop import Gap, paired_gap
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_plan import plan_pretrain
from bequest.training.resume import open_run
from bequest.training.token_blocks import as_batch, open_blocks, write_streams

_REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """A finished round."""

    depth: int
    """Blocks of the student."""
    folder: Path
    """Its model."""
    tokens: int
    """Tokens that it was trained on."""
    losses: dict[str, HeldOutLosses]
    """Held-out losses of the trained weights and of each average."""
    gap: Gap
    """Of the candidate to the reference."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InherituneResult:
    """What came of a run."""

    rounds: tuple[Round, ...]
    """In order; the last one is the result."""
    reference: HeldOutLosses
    """Held-out losses of the reference."""
    reason: str
    """Why the run ended, in one sentence."""
    sections: list[Section]
    """What results.json shows."""


def run_inheritune(
    plan: InheritunePlan,
    *,
    report: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> InherituneResult:
    """Carry a plan out, or the rest of it.

    Args:
        plan: from `plan_inheritune`.
        report: is told a sentence after each round.
        progress: show bars.

    Raises:
        InputError: the data or the reference is at fault.
        StorageError: the disk is full or failed, or another process runs in out.
    """
    config = plan.config
    with open_run(config.folder, plan.record, goes_on=plan.goes_on):
        reference = _reference_losses(plan)
        report(f"reference: {plan.reference_depth} blocks, loss {reference.loss:.4f}")
        rounds: list[Round] = []
        reason = "The budget of rounds ended, or the reference has no more blocks."
        for number in range(len(plan.depths)):
            spent = sum(done.tokens for done in rounds)
            coming = plan.reference.length.tokens_trained
            if config.max_tokens is not None and spent + coming > config.max_tokens:
                reason = f"Another round would read more than max_tokens = {config.max_tokens:,}."
                break
            rounds.append(_round(plan, number, reference, progress))
            done = rounds[-1]
            report(
                f"round {number + 1}: {done.depth} blocks, loss "
                f"{done.losses[plan.candidate].loss:.4f}, behind the reference by "
                f"{done.gap.mean:.4f} ({done.gap.low:.4f} to {done.gap.high:.4f})"
            )
            if done.gap.closed(config.tolerance):
                reason = (
                    f"The student of {done.depth} blocks is no worse than the reference by more "
                    f"than {config.tolerance:g} nats a token."
                )
                break
        sections = _sections(plan, reference, rounds, reason)
        write_results(config.folder, command_line(), sections)
    return InherituneResult(
        rounds=tuple(rounds), reference=reference, reason=reason, sections=sections
    )


def _reference_losses(plan: InheritunePlan) -> HeldOutLosses:
    """Measure the reference as the rounds are measured, once."""
    folder = plan.config.folder / _REFERENCE
    if (folder / FILE_NAME).is_file():
        return read_losses(folder)[_REFERENCE]
    of = plan.reference
    assert of.tokenizer is not None
    key = write_streams(of.cache, of.documents, of.tokenizer)
    blocks = open_blocks(of.cache, key, of.documents, of.config.block_length)
    meter = HeldOutMeter(blocks.held_out, keep=1)
    arguments = of.arguments
    arguments.disable_tqdm = True
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        trainer = Trainer(
            model=of.start.load(arguments.seed),
            args=arguments,
            data_collator=as_batch,
            eval_dataset=blocks.held_out,
            compute_metrics=meter,
            preprocess_logits_for_metrics=meter.token_losses,
        )
        trainer.evaluate()
    finally:
        logging.set_verbosity(before)
    folder.mkdir(exist_ok=True)
    save_losses(folder, {_REFERENCE: meter.measured[-1]})
    return meter.measured[-1]


def _round(plan: InheritunePlan, number: int, reference: HeldOutLosses, progress: bool) -> Round:
    folder, depth = plan.round_folder(number), plan.depths[number]
    model = folder / "model"
    if not (model / FILE_NAME).is_file():
        _start(plan, number)
        run_pretrain(plan_pretrain(plan.round_config(number)), progress=progress)
    losses = read_losses(model)
    settings: dict[str, Any] = read_lineage(model)["settings"]
    return Round(
        depth=depth,
        folder=model,
        tokens=int(settings["tokens_read"]),
        losses=losses,
        gap=paired_gap(losses[plan.candidate], reference, confidence=plan.config.confidence),
    )


def _start(plan: InheritunePlan, number: int) -> None:
    """Write the model that a round starts from, unless it is there."""
    config, depth = plan.config, plan.depths[number]
    start = plan.round_folder(number) / "start"
    if (start / "config.json").is_file():
        return
    start.parent.mkdir(exist_ok=True)
    trust = config.trust_remote_code
    if number == 0 or config.growth == "restart":
        inherit(
            config.reference,
            start,
            layers=depth,
            revision=config.revision,
            trust_remote_code=trust,
        )
    else:
        grow(
            plan.round_folder(number - 1) / "model",
            config.reference,
            start,
            layers=depth,
            from_block=plan.depths[number - 1],
            teacher_revision=config.revision,
            trust_remote_code=trust,
        )


def _sections(
    plan: InheritunePlan, reference: HeldOutLosses, rounds: Sequence[Round], reason: str
) -> list[Section]:
    names = list(rounds[0].losses) if rounds else []
    columns = ["round", "blocks", "tokens", *(f"loss, {name}" for name in names)]
    columns += ["gap to the reference", "low", "high"]
    rows: list[list[Any]] = [
        ["reference", plan.reference_depth, None, *[reference.loss] * len(names), 0.0, None, None]
    ]
    for number, done in enumerate(rounds, start=1):
        losses = [done.losses[name].loss for name in names]
        gap = done.gap
        rows.append([str(number), done.depth, done.tokens, *losses, gap.mean, gap.low, gap.high])
    table = {"columns": columns, "rows": rows}
    depths = [done.depth for done in rounds]
    gaps = [done.gap for done in rounds]
    line = {
        "name": plan.candidate,
        "x": depths,
        "y": [gap.mean for gap in gaps],
        "interval": {"low": [gap.low for gap in gaps], "high": [gap.high for gap in gaps]},
    }
    ended = [["why it ended", reason], ["result", str(rounds[-1].folder) if rounds else None]]
    return [
        Section(title="Rounds", type="table", data=table),
        Section(
            title="Student - reference",
            type="lines",
            data={"x_label": "blocks", "y_label": "loss (nats/token)", "series": [line]},
        ),
        Section(title="End", type="table", data={"columns": ["what", "value"], "rows": ended}),
    ]
