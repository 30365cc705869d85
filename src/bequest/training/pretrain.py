"""Pre-train a causal language model on text, with averages, and resume exactly."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging

from bequest.checkpoints.account import account
from bequest.checkpoints.publish import staged_folder
from bequest.errors import BequestError, StorageError
from bequest.losses.processes import from_first
from bequest.results import Section
from bequest.training.average_recipes import TRAINED
from bequest.training.averaging_callback import WeightAveragingCallback
from bequest.training.distillation import trainer_of
from bequest.training.divergence import check_losses, check_weights_of
from bequest.training.finished_model import write_finished
from bequest.training.held_out_losses import HeldOutLosses, HeldOutMeter
from bequest.training.pretrain_disk import require_disk
from bequest.training.pretrain_plan import PretrainPlan, training_dtype
from bequest.training.pretrain_results import pretrain_sections
from bequest.training.pretrain_trainer import PretrainTrainer
from bequest.training.run_folder import RunStart, opened
from bequest.training.run_length import RunLength, check_length, run_length
from bequest.training.starting_model import fit_to_tokenizer
from bequest.training.throughput import Throughput, flops_per_token, peak_flops
from bequest.training.token_blocks import TokenBlocks, as_batch, open_blocks, write_streams
from bequest.training.tokenizer_training import train_tokenizer

EXACTNESS = ("torch", "transformers", "accelerate")
"""Packages whose versions decide about the last bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainResult:
    """What came of a run."""

    folder: Path
    """The finished model."""
    length: RunLength
    """Tokens and steps, counted."""
    losses: dict[str, HeldOutLosses]
    """The held-out losses of the trained weights (`trained`) and of each average, token by token:
    those of two models with one tokenizer on the same text pair up."""
    log: list[dict[str, Any]]
    """The trainer's log: training losses, rates, evaluations; with `step`."""
    resumed_from: int
    """The step that this process began after."""
    tokens_per_second: float | None
    """Of this process's steps; None if it took none."""
    mfu: float | None
    """Share of the device's arithmetic that they used; None if not known."""
    seconds: float
    """From the start of this process's part to the published folder."""
    sections: list[Section]
    """What the folder's `results.json` shows."""
    notes: tuple[str, ...]
    """Sentences worth reading."""


def run_pretrain(
    plan: PretrainPlan,
    *,
    trainer_class: type[PretrainTrainer] = PretrainTrainer,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
    print_logs: bool = False,
) -> PretrainResult:
    """Train, measure and publish what was planned; a run that was broken off goes on.

    Every process of a distributed run calls this; the first one writes.

    Args:
        plan: from `plan_pretrain`.
        trainer_class: may replace `compute_loss`; with `distillation` a `DistillingTrainer`.
        callbacks: further callbacks of the trainer.
        progress: show bars.
        print_logs: print a line for each entry of the trainer's log.

    Raises:
        InputError: the data gives no block, the tokenizer does not spell it, or the run's folder
            holds another run or is in use.
        StorageError: the disk is full or failed.
        DivergedError: training ended with weights or a loss that are not finite.
    """
    started = time.monotonic()
    arguments = plan.arguments
    first = arguments.process_index == 0
    with ExitStack() as stack, quiet_library():
        start = stack.enter_context(
            opened(
                plan.run,
                plan.record,
                packages=EXACTNESS,
                overwrite=plan.config.overwrite,
                processes=arguments.world_size,
            )
        )
        if first:
            plan.contents.keep()
        with arguments.main_process_first(local=False, desc="prepare text"):
            tokenizer, blocks = _prepare(plan, progress)
        length = run_length(
            arguments,
            plan.config.block_length,
            training_tokens=blocks.training_tokens,
            held_out_tokens=int(blocks.held_out.tokens_per_document.sum()),
            exact=True,
        )
        for name, value in check_length(plan.config, plan.recipes, length).items():
            setattr(arguments, name, value)
        arguments.disable_tqdm = not progress
        model = plan.start.load(arguments.seed)
        throughput, speed_note = _throughput(plan, model, length)
        meter = HeldOutMeter(blocks.held_out, keep=1 + len(plan.recipes))
        # Keys and values of earlier tokens are of no use here; the finished model keeps them.
        uses_cache = getattr(model.config, "use_cache", True)
        model.config.use_cache = False
        trainer = trainer_of(plan, trainer_class)(
            model=model,
            args=arguments,
            data_collator=as_batch,
            train_dataset=blocks.training,
            eval_dataset=blocks.held_out,
            processing_class=tokenizer,
            compute_metrics=meter,
            preprocess_logits_for_metrics=meter.token_losses,
            callbacks=list(callbacks),
            throughput=throughput,
            fused_loss=plan.config.fused_loss,
        )
        if not print_logs:
            trainer.remove_callback(PrinterCallback)
        averaging = _add_averages(trainer, plan)
        if first:
            done = start.step >= length.steps
            require_disk(plan.disk(length), plan.run, plan.target, done=done)
        _train(trainer, start)
        # A callback may have stopped it before.
        length = dataclasses.replace(length, steps=trainer.state.global_step)
        losses = _measure(trainer, meter, averaging)
        check_losses(losses, plan.config.weights)
        model.config.use_cache = uses_cache
        notes = (*start.notes, speed_note)
        sections = pretrain_sections(plan, length, losses, trainer.state.log_history, throughput)
        seconds = time.monotonic() - started
        sections.append(account(plan.config, seconds=seconds, tokens=length.tokens_trained))
        _publish(trainer, averaging, plan, length, losses, sections)
    rate = throughput.tokens_per_second
    return PretrainResult(
        folder=plan.target,
        length=length,
        losses=losses,
        log=list(trainer.state.log_history),
        resumed_from=start.step,
        tokens_per_second=rate,
        mfu=throughput.utilisation,
        seconds=time.monotonic() - started,
        sections=sections,
        notes=notes,
    )


def _prepare(plan: PretrainPlan, progress: bool) -> tuple[PreTrainedTokenizerBase, TokenBlocks]:
    tokenizer = plan.tokenizer
    if tokenizer is None:
        assert plan.tokenizer_folder is not None and plan.config.train_tokenizer is not None
        if not (plan.tokenizer_folder / "tokenizer.json").is_file():
            trained = train_tokenizer(plan.documents.training_texts(), plan.config.train_tokenizer)
            with staged_folder(plan.tokenizer_folder) as folder:
                trained.save_pretrained(folder)
        # As written, so that a resumed run has the same one.
        tokenizer = _read_tokenizer(plan.tokenizer_folder)
    fit_to_tokenizer(plan.start, tokenizer, len(tokenizer), plan.config.model_config)
    key = write_streams(plan.cache, plan.documents, tokenizer, progress=progress)
    return tokenizer, open_blocks(plan.cache, key, plan.documents, plan.config.block_length)


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _throughput(
    plan: PretrainPlan, model: PreTrainedModel, length: RunLength
) -> tuple[Throughput, str]:
    arguments = plan.arguments
    flops = flops_per_token(model, plan.config.block_length)
    if flops is None:
        return Throughput(length.tokens_after, None, 1.0), (
            "Model FLOP utilisation is left out: this model is a mixture of experts."
        )
    peak, how = peak_flops(arguments.device, training_dtype(arguments))
    note = f"Utilisation (mfu) is against {peak / 1e12:.3g} TFLOP/s a process ({how})."
    return Throughput(length.tokens_after, flops, peak * arguments.world_size), note


def _add_averages(trainer: PretrainTrainer, plan: PretrainPlan) -> WeightAveragingCallback | None:
    if not plan.recipes:
        return None
    averaging = WeightAveragingCallback(trainer, save_averaged=True, **plan.recipes)
    trainer.add_callback(averaging)
    return averaging


def _train(trainer: PretrainTrainer, start: RunStart) -> None:
    checkpoint = start.checkpoint
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except BequestError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{place}{error.strerror or error}") from error
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        raise BequestError(
            "the device's memory is full; lower training.per_device_train_batch_size (and raise "
            "gradient_accumulation_steps), or set training.gradient_checkpointing"
        ) from error


def _measure(
    trainer: PretrainTrainer, meter: HeldOutMeter, averaging: WeightAveragingCallback | None
) -> dict[str, HeldOutLosses]:
    names = [TRAINED, *(averaging.averages.names if averaging is not None else ())]
    state = trainer.state
    evaluated = any(
        entry["step"] == state.global_step and "eval_loss" in entry for entry in state.log_history
    )
    # The best checkpoint's weights, loaded at the end, are others than the last evaluation's.
    if trainer.args.load_best_model_at_end or not evaluated or len(meter.measured) < len(names):
        meter.measured.clear()
        trainer.evaluate()
    return dict(zip(names, list(meter.measured)[-len(names) :], strict=True))


def _publish(
    trainer: PretrainTrainer,
    averaging: WeightAveragingCallback | None,
    plan: PretrainPlan,
    length: RunLength,
    losses: dict[str, HeldOutLosses],
    sections: Sequence[Section],
) -> None:
    name = plan.config.weights
    with ExitStack() as stack:
        folder: Path | None = None
        if trainer.args.process_index == 0:
            folder = stack.enter_context(
                staged_folder(plan.target, overwrite=plan.config.overwrite)
            )
        folder = Path(from_first(str(folder)))
        applied = (
            averaging.averages.applied(trainer.model, name)
            if averaging is not None and name != TRAINED
            else nullcontext()
        )
        with applied:
            trainer.save_model(str(folder))
        if trainer.args.process_index == 0:
            check_weights_of(folder)
            write_finished(folder, plan, length, losses, sections)


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep transformers from advising on what is done on purpose here, and from bars of its own."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
