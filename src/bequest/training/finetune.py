"""Carry out a fine-tuning run: score, train with FlowTrainer, publish; taken up where it was."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from bequest.errors import BequestError, InputError, explained
from bequest.losses.processes import from_first, rank_and_size
from bequest.results import Section
from bequest.training.average_recipes import TRAINED
from bequest.training.averaging_callback import WeightAveragingCallback
from bequest.training.finetune_data import tokenized_dataset
from bequest.training.finetune_model import lora_config
from bequest.training.finetune_plan import FinetunePlan
from bequest.training.finetune_publish import publish
from bequest.training.flow_trainer import FlowTrainer
from bequest.training.retention_callback import METRIC, RetentionCallback
from bequest.training.run_folder import MADE, opened, trainer_state
from bequest.training.samples import progress_bars
from bequest.training.score import carry_out as carry_out_scoring
from bequest.weighting.schemes import TOKEN_SCHEMES

_EXACTNESS = ("torch", "transformers", "trl", "peft", "accelerate")
"""Packages whose versions decide about the last bits."""
_MADE = (*MADE, r"scores(\.parquet)?", r"README\.md")
"""What a run leaves in its folder; TRL writes a model card with every checkpoint."""


def finetune(plan: FinetunePlan, *, progress: bool = False, told: bool = False) -> list[Section]:
    """Carry a plan out, or go on where an earlier process of the same plan was broken off.

    Every process of a distributed run calls it.

    Args:
        plan: from `plan_finetune`.
        progress: show bars.
        told: print what the run starts from, and the trainer's log where no bar is shown.

    Returns:
        What `results.json` holds; nothing in processes other than the first.

    Raises:
        InputError: the run's folder holds another run or is in use, or the trainer refuses the
            model or the data.
        BequestError: the weights are not finite in the end.
        StorageError: the disk is full or failed.
    """
    started = time.monotonic()
    first = rank_and_size()[0] == 0
    with opened(
        plan.run,
        plan.identity,
        packages=_EXACTNESS,
        overwrite=plan.config.overwrite,
        processes=rank_and_size()[1],
        made=_MADE,
    ) as start:
        for note in start.notes if told else ():
            _print(note)
        if first:
            plan.contents.keep()
        scores = _scores(plan, progress=progress)
        checkpoint = start.checkpoint
        if checkpoint is None or not ended(plan, checkpoint):
            trainer = make_trainer(plan, scores, progress=progress, told=told)
            _train(trainer, checkpoint)
            checkpoint = _last_checkpoint(plan, trainer.state)
        sections: list[Section] = []
        if first:
            sections = publish(plan, checkpoint, weights_folder(plan, checkpoint), started)
        from_first(None)  # The others stay until it is there.
    return sections


def make_trainer(
    plan: FinetunePlan, scores: Path | None, *, progress: bool = False, told: bool = False
) -> FlowTrainer:
    """Load the model and make its trainer, with the callbacks that the plan asks for.

    Args:
        plan: from `plan_finetune`.
        scores: the run's own score file.
        progress: show a bar.
        told: print the trainer's log where no bar is shown.

    Raises:
        InputError: the trainer refuses something.
    """
    config = plan.config
    train = tokenized_dataset(plan.scoring.tokenized, plan.given_weights)
    held_out = None if plan.held_out is None else tokenized_dataset(plan.held_out, None)
    args = plan.args
    args.disable_tqdm = not progress
    model = _load(plan)
    with explained("training cannot start"), progress_bars(progress):
        trainer = FlowTrainer(
            model,
            args,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=plan.scoring.tokenizer,
            peft_config=None if config.lora is None else lora_config(config.lora),
            scores=scores,
            method=config.method,
        )
    trainer.remove_callback(PrinterCallback)
    if not progress:
        trainer.remove_callback(ProgressCallback)
        if told:
            trainer.add_callback(_Printed())
    if plan.texts is not None:
        watched = config.retention
        trainer.add_callback(
            RetentionCallback(trainer, plan.texts, max_increase=watched.max_increase)
        )
    if plan.recipes:
        trainer.add_callback(WeightAveragingCallback(trainer, **dict[str, Any](plan.recipes)))
    trainer.add_callback(_Ending())
    return trainer


def ended(plan: FinetunePlan, checkpoint: Path) -> bool:
    """Return whether a checkpoint is the last of its run: all steps done, or stopped early."""
    state = trainer_state(checkpoint)
    if state["global_step"] >= state["max_steps"]:
        return True
    logged = [entry[METRIC] for entry in state["log_history"] if METRIC in entry]
    allowed = plan.config.retention.max_increase
    return allowed is not None and bool(logged) and logged[-1] > logged[0] + allowed


def weights_folder(plan: FinetunePlan, checkpoint: Path) -> Path:
    """Return the folder, in or below a checkpoint of the run, whose weights are to be published."""
    name = plan.config.weights
    if plan.args.load_best_model_at_end:
        best = trainer_state(checkpoint)["best_model_checkpoint"]
        if best is not None:
            checkpoint = plan.run / Path(best).name
        metric = (plan.args.metric_for_best_model or "").removeprefix("eval_")
        name = next((own for own in plan.recipes if metric.startswith(f"{own}_")), name)
    folder = checkpoint if name == TRAINED else checkpoint / "averaging" / name
    if not folder.is_dir():
        raise InputError(
            f"weights is {name!r}, but the run ended before there was such an average; train "
            "longer, start it earlier, or publish the trained weights"
        )
    return folder


def _scores(plan: FinetunePlan, *, progress: bool) -> Path | None:
    """Compute the losses that the method needs, unless the run has them already."""
    file = plan.scores_file
    if file is None or from_first(file.is_file()):
        return file
    scheme = plan.config.method.scheme or "flow"
    scoring = dataclasses.replace(
        plan.scoring,
        config=dataclasses.replace(
            plan.scoring.config, out=str(file), tokens=scheme in TOKEN_SCHEMES
        ),
    )
    carry_out_scoring(scoring, progress=progress)
    from_first(None)  # The first process has written the file.
    return file


def _load(plan: FinetunePlan) -> Any:
    name = plan.location.name
    with explained(f"model {name} cannot be loaded"):
        return AutoModelForCausalLM.from_pretrained(
            plan.location.folder,
            dtype=plan.dtype,
            trust_remote_code=plan.config.trust_remote_code,
        )


def _train(trainer: FlowTrainer, checkpoint: Path | None) -> None:
    # The averages' callback learns from here which folder the trainer resumes from.
    trainer.args.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _last_checkpoint(plan: FinetunePlan, state: TrainerState) -> Path:
    checkpoint = plan.run / f"checkpoint-{state.global_step}"
    if not checkpoint.is_dir():
        raise BequestError(f"{plan.run} has no checkpoint of the last step; run the command again")
    return checkpoint


class _Printed(TrainerCallback):
    """Prints the few numbers of each log entry that tell how a run goes."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            told = {name: logs[name] for name in logs if name == "loss" or _is_held_out(name)}
            words = [f"{name.removeprefix('eval_')} {told[name]:.4g}" for name in sorted(told)]
            if told:
                kind = "" if "loss" in told else "held out: "
                sys.stdout.write(
                    f"  step {state.global_step}/{state.max_steps}  {kind}{'  '.join(words)}\n"
                )
                sys.stdout.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


def _is_held_out(name: str) -> bool:
    return name == METRIC or (name.startswith("eval_") and name.endswith("loss"))


class _Ending(TrainerCallback):
    """Ends a run with everything in its last checkpoint: the last evaluation, log and weights.

    What is published is made from that checkpoint alone, so that it does not matter whether the
    process that trained lived long enough to do it.
    """

    def __init__(self) -> None:
        self._ended_at = -1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_training_stop = True
            control.should_log = True
            control.should_save = True
            control.should_evaluate = args.eval_strategy != IntervalStrategy.NO
            self._ended_at = state.global_step

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if control.should_training_stop:
            control.should_save = True
            self._ended_at = state.global_step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Done at the end of the step already.
        if self._ended_at == state.global_step:
            control.should_evaluate = control.should_save = control.should_log = False
