"""Inheritune's Algorithm 1 as one run: inherit, train, compare with the reference, grow, again.

Everything a round or a baseline leaves is published whole or not at all: its start, its trained
model with the losses of every held-out token. So a run that was killed in any state goes on by
looking at what is there, and a stage that was training goes on from its newest checkpoint.

Source: arXiv 2404.08634, Algorithm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PrinterCallback, Trainer

from bequest.checkpoints.account import account
from bequest.checkpoints.lineage import command_line
from bequest.errors import InputError
from bequest.results import Section, write_results
from bequest.training.divergence import DivergedError
from bequest.training.held_out_losses import (
    FILE_NAME,
    HeldOutLosses,
    HeldOutMeter,
    read_losses,
    save_losses,
)
from bequest.training.inheritune_baselines import baseline_stages
from bequest.training.inheritune_plan import InheritunePlan
from bequest.training.inheritune_results import Baseline, Round, inheritune_sections
from bequest.training.inheritune_stage import Stage, Trained, train_stage
from bequest.training.inheritune_stop import paired_gap
from bequest.training.pretrain import EXACTNESS, quiet_library
from bequest.training.run_folder import opened
from bequest.training.run_length import RunLength, estimated_length
from bequest.training.token_blocks import as_batch, open_blocks, write_streams
from bequest.training.whole_evaluation import whole_evaluation

_REFERENCE = "reference"
_MADE = (_REFERENCE, r"round-\d+", "baselines", r"results\.json")
"""What a run makes in out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InherituneResult:
    """What came of a run."""

    rounds: tuple[Round, ...]
    """In order; the last one is the result."""
    baselines: tuple[Baseline, ...]
    """Of the last round's student, in the order that was asked for."""
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
        report: is told a sentence after each round and baseline.
        progress: show bars.

    Raises:
        InputError: the data or the reference is at fault, or another process runs in out.
        StorageError: the disk is full or failed.
        DivergedError: a round or a baseline ended with weights or a loss that are not finite.
    """
    started = time.monotonic()
    config = plan.config
    with opened(
        config.folder,
        plan.record,
        packages=EXACTNESS,
        overwrite=config.overwrite,
        made=_MADE,
        field="out",
    ) as start:
        for note in start.notes:
            report(note)
        length = _exact_length(plan)
        reference = _reference_losses(plan)
        report(f"reference: {plan.reference_depth} blocks, loss {reference.loss:.4f}")
        rounds: list[Round] = []
        reason = "The budget of rounds ended, or the reference has no more blocks."
        for number in range(len(plan.depths)):
            spent = sum(done.tokens for done in rounds)
            coming = length.tokens_trained
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
        baselines: list[Baseline] = []
        for name in config.baselines if rounds else ():
            baselines.append(_baseline(plan, name, rounds[-1], reference, progress))
            rival = baselines[-1]
            apart = rival.gap_to_student
            report(
                f"{name}: {rival.depth} blocks, loss {rival.losses[plan.candidate].loss:.4f}, "
                f"behind the student by {apart.mean:.4f} ({apart.low:.4f} to {apart.high:.4f})"
            )
        sections = inheritune_sections(plan, reference, rounds, baselines, reason)
        tokens = sum(one.tokens for one in [*rounds, *baselines])
        sections.append(account(config, seconds=time.monotonic() - started, tokens=tokens))
        write_results(config.folder, command_line(), sections)
    return InherituneResult(
        rounds=tuple(rounds),
        baselines=tuple(baselines),
        reference=reference,
        reason=reason,
        sections=sections,
    )


def _exact_length(plan: InheritunePlan) -> RunLength:
    """Count what a round reads; the plan may only have estimated it."""
    of = plan.reference
    if of.length.exact or plan.config.max_tokens is None:
        return of.length
    assert of.tokenizer is not None
    write_streams(of.cache, of.documents, of.tokenizer)
    return estimated_length(of.config, of.arguments, of.documents, of.tokenizer)


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
    with quiet_library(), whole_evaluation(arguments):
        trainer = Trainer(
            model=of.start.load(arguments.seed),
            args=arguments,
            data_collator=as_batch,
            eval_dataset=blocks.held_out,
            compute_metrics=meter,
            preprocess_logits_for_metrics=meter.token_losses,
        )
        # A line for each entry of the log would stand before what is printed.
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate()
    if not math.isfinite(meter.measured[-1].loss):
        raise InputError(
            f"reference {plan.config.reference} has a held-out loss of {meter.measured[-1].loss}; "
            "name a model that computes, or train in another precision"
        )
    folder.mkdir(exist_ok=True)
    save_losses(folder, {_REFERENCE: meter.measured[-1]})
    return meter.measured[-1]


def _round(plan: InheritunePlan, number: int, reference: HeldOutLosses, progress: bool) -> Round:
    stage = plan.round_stage(number)
    done = _trained(plan, f"round {number + 1}", stage, progress)
    return Round(
        depth=stage.depth,
        folder=stage.model,
        tokens=done.tokens,
        losses=done.losses,
        gap=paired_gap(done.losses[plan.candidate], reference, confidence=plan.config.confidence),
    )


def _trained(plan: InheritunePlan, name: str, stage: Stage, progress: bool) -> Trained:
    """Train a stage, or the rest of it; of one that diverged, say which it was."""
    try:
        return train_stage(plan.config, stage, plan.settings(stage), progress=progress)
    except DivergedError as error:
        said = str(error).replace("training.", "pretrain.training.")
        raise DivergedError(f"{name}, {stage.depth} blocks: {said}") from error


def _baseline(
    plan: InheritunePlan, name: str, student: Round, reference: HeldOutLosses, progress: bool
) -> Baseline:
    """Train a rival of a round's student, in all its stages, and pair it with both models."""
    config = plan.config
    stages = baseline_stages(config, name, student.depth, plan.reference_depth)
    done = [_trained(plan, name, stage, progress) for stage in stages]
    losses = done[-1].losses
    own, students = losses[plan.candidate], student.losses[plan.candidate]
    return Baseline(
        name=name,
        depth=stages[-1].depth,
        folder=stages[-1].model,
        tokens=sum(one.tokens for one in done),
        losses=losses,
        gap=paired_gap(own, reference, confidence=config.confidence),
        gap_to_student=paired_gap(own, students, confidence=config.confidence),
    )
