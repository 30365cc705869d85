"""Weight averages in transformers' Trainer and TRL's trainers: evaluated, saved and resumed.

Three methods of the trainer are wrapped, on the instance, because no callback event will do:
`evaluation_loop`, so that raw and averaged metrics end in one dictionary, whatever the data set;
`_save_checkpoint`, so that the state is in the checkpoint before the trainer completes it,
pushes it and deletes older ones, whoever asked for it (steps, epochs, best metric, SIGTERM);
and `_load_from_checkpoint`, which alone is told what a run is resumed from.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from bequest.averaging.live import WeightAverages
from bequest.averaging.members import FOLDER
from bequest.averaging.recipes import Recipe
from bequest.errors import CheckpointError, InputError


class WeightAveragingCallback(TrainerCallback):
    """Keeps averages of the weights beside a run, which is trained as if it were not there.

    ::

        averaging = WeightAveragingCallback(trainer, lawa=LatestWeightAverage(spacing=100))
        trainer.add_callback(averaging)

    At each evaluation the metrics of each average stand beside the raw ones (`eval_loss`,
    `eval_lawa_loss`). Each checkpoint holds the averages' state and, in `averaging/NAME`, the
    averaged model. LAWA's members lie in `OUTPUT_DIR/averaging`.

    With `load_best_model_at_end` the trainer ends with the raw weights of the best checkpoint; if
    `metric_for_best_model` is an average's, such as `eval_lawa_loss`, with that average's weights.
    While an average does not exist yet, a metric of it that decides about the best counts as the
    worst possible.

    Args:
        trainer: The trainer to which the callback is added.
        save_averaged: Whether to save the averaged models beside each checkpoint.
        recipes: The averages by name.

    Raises:
        InputError: There is no recipe, or the trainer has such a callback already.
    """

    def __init__(self, trainer: Trainer, *, save_averaged: bool = True, **recipes: Recipe) -> None:
        _refuse_more_than(0, trainer)
        self._trainer = trainer
        self._save_averaged = save_averaged
        self._recipes = recipes
        self._wrapped = False
        self._evaluation_loop = trainer.evaluation_loop
        self._save_checkpoint = trainer._save_checkpoint
        self._load_from_checkpoint = trainer._load_from_checkpoint
        self._resumed_from: Path | None = None
        # The trainer loads a checkpoint before the first event of a training.
        trainer._load_from_checkpoint = self._load_and_note
        self.averages = WeightAverages(trainer.args.output_dir, **recipes)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start afresh, or take up the state of the checkpoint that the trainer resumed from."""
        _refuse_more_than(1, self._trainer)
        _refuse_unsupported(self._trainer, state, self._save_averaged)
        if args.load_best_model_at_end and args.save_only_model and self._deciding_average():
            raise InputError(
                f"save_only_model is True, but {self._deciding_metric} decides which model is loaded "
                "at the end, and that average's state would be in no checkpoint: set it to False."
            )
        self.averages = WeightAverages(args.output_dir, **self._recipes)
        if state.global_step > 0:
            self._resume(state)
        if not self._wrapped:
            self._trainer.evaluation_loop = self._evaluate_all
            self._trainer._save_checkpoint = self._save_all
            self._wrapped = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take in the weights."""
        self._update()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let what comes after the last step, such as loading the best weights, wait for copies."""
        self.averages.wait_for_copies()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Let an average that does not exist yet lose: its metric decides, so it must be there."""
        name = self._deciding_average()
        if name is not None and name not in self.averages.names:
            # Here, after the log: infinity is no JSON.
            worst = float("-inf" if args.greater_is_better else "inf")
            metrics.setdefault(self._deciding_metric, worst)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Finish writing; if an average decided about the best checkpoint, load it from there."""
        self.averages.finish()
        name = self._deciding_average()
        if args.load_best_model_at_end and name is not None and state.best_model_checkpoint:
            self.averages.load(state.best_model_checkpoint, self._trainer.model)
            self.averages.apply(self._trainer.model, name)

    def _load_and_note(self, resume_from_checkpoint: str, *rest: Any, **options: Any) -> None:
        self._resumed_from = Path(resume_from_checkpoint)
        self._load_from_checkpoint(resume_from_checkpoint, *rest, **options)

    def _resume(self, state: TrainerState) -> None:
        checkpoint = self._resumed_from
        if checkpoint is None:
            raise InputError(
                f"trainer goes on from step {state.global_step}, but the callback was not told from "
                "which checkpoint: make it before train() is called."
            )
        # A checkpoint without any state is of a run that kept no averages: they start now.
        if not (checkpoint / FOLDER).is_dir():
            return
        self.averages.load(checkpoint, self._trainer.model)
        if self.averages.step != state.global_step:
            raise CheckpointError(
                f"{checkpoint} holds averages up to step {self.averages.step}, but the trainer "
                f"goes on from step {state.global_step}: its {FOLDER} folder is another "
                "checkpoint's, so resume from the one that it came with."
            )

    def _update(self) -> None:
        # Asked again at a save: one on SIGTERM comes before this callback's own turn.
        trainer = self._trainer
        self.averages.update(trainer.state.global_step, trainer.model, _inner(trainer.optimizer))

    def _save_all(self, model: Any, trial: Any) -> None:
        trainer = self._trainer
        self._update()
        folder = f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        checkpoint = Path(trainer.args.output_dir) / folder
        if not trainer.args.save_only_model:
            self.averages.save(checkpoint)
        if self._save_averaged:
            for name in self.averages.names:
                with self.averages.applied(trainer.model, name):
                    # One folder down: adapters right below a checkpoint would be resumed from.
                    trainer.save_model(str(checkpoint / FOLDER / name), _internal_call=True)
        self._save_checkpoint(model, trial)

    def _evaluate_all(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        options = (prediction_loss_only, ignore_keys)
        raw = self._evaluation_loop(dataloader, description, *options, metric_key_prefix)
        if description == "Prediction":
            return raw
        for name in self.averages.names:
            prefix = f"{metric_key_prefix}_{name}"
            with (
                self.averages.applied(self._trainer.model, name),
                _untouched_randomness(),
                _side_metrics_apart(self._trainer) as side_metrics,
            ):
                averaged = self._evaluation_loop(
                    dataloader, f"{description} ({name})", *options, prefix
                )
                raw.metrics.update({f"{prefix}_{key}": v for key, v in side_metrics().items()})
            preparation = f"{prefix}_model_preparation_time"
            raw.metrics.update({k: v for k, v in averaged.metrics.items() if k != preparation})
        return raw

    def _deciding_average(self) -> str | None:
        """Return the average whose metric decides which checkpoint is best, if one does."""
        data = self._trainer.eval_dataset
        sets = [f"eval_{name}" for name in data] if isinstance(data, dict) else ["eval"]
        for name in self._recipes:
            if self._deciding_metric.startswith(tuple(f"{prefix}_{name}_" for prefix in sets)):
                return name
        return None

    @property
    def _deciding_metric(self) -> str:
        metric = self._trainer.args.metric_for_best_model or ""
        return metric if metric.startswith("eval_") else f"eval_{metric}"


def _refuse_more_than(allowed: int, trainer: Trainer) -> None:
    callbacks = trainer.callback_handler.callbacks
    if sum(isinstance(callback, WeightAveragingCallback) for callback in callbacks) > allowed:
        raise InputError(
            "trainer has a WeightAveragingCallback already, and two would delete each other's "
            "members: give all recipes to one, by their names."
        )


def _refuse_unsupported(trainer: Trainer, state: TrainerState, save_averaged: bool) -> None:
    if trainer.is_deepspeed_enabled:
        raise InputError(
            "trainer runs DeepSpeed, which keeps the weights where bequest cannot average them: "
            "use FSDP2, or average the checkpoints afterwards with bequest average."
        )
    if state.is_hyper_param_search:
        raise InputError("trainer searches hyperparameters: average the final run instead.")
    if trainer.is_fsdp_enabled:
        plugin = trainer.accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise InputError(
                f"fsdp_version is {plugin.fsdp_version}: averages need FSDP2, so set it to 2."
            )
        if save_averaged and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
            raise InputError(
                f"state_dict_type of FSDP is {plugin.state_dict_type}, with which the trainer "
                "saves no model: set FULL_STATE_DICT, or save_averaged=False for the callback."
            )


def _inner(optimizer: Any) -> Optimizer | None:
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    return inner if isinstance(inner, Optimizer) else None


@contextmanager
def _untouched_randomness() -> Iterator[None]:
    """Leave the random numbers that training draws next as they would have been.

    A data loader draws a seed each time it is iterated over, even if nothing is shuffled.
    """
    python, numpy = random.getstate(), np.random.get_state()
    device = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=device):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _side_metrics_apart(trainer: Trainer) -> Iterator[Any]:
    """Keep what TRL's trainers collect during an evaluation from mixing with the raw model's.

    They gather lists (token accuracy, entropy, rewards) in `_metrics["eval"]`, which their `log`
    averages as the raw model's.

    Yields:
        A function that gives the means collected since.
    """
    collected = getattr(trainer, "_metrics", {}).get("eval")
    if collected is None:
        yield lambda: {}
        return
    raw = {key: list(values) for key, values in collected.items()}
    collected.clear()
    try:
        yield lambda: {key: sum(v) / len(v) for key, v in collected.items() if v}
    finally:
        collected.clear()
        collected.update(raw)
