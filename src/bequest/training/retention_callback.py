"""While a model is fine-tuned, watch what it still makes of text that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.nn.parallel import DistributedDataParallel
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import bits_per_byte

METRIC = "eval_retention_bits_per_byte"
"""Its name in the log, beside `eval_loss`."""


class RetentionCallback(TrainerCallback):
    """Logs held-out bits per byte before training and at every evaluation; stops when they rise.

    ::

        retention = RetentionCallback(trainer, texts, max_increase=0.02)
        trainer.add_callback(retention)

    `eval_retention_bits_per_byte` stands in the log, and can be `metric_for_best_model` (with
    `greater_is_better=False`). The value before the first step is in the log too, so that a resumed
    run still measures against it. Training itself is not changed.

    Args:
        trainer: The trainer to which the callback is added.
        texts: What the model should not forget: text like that of its pre-training, none of which
            is trained on. Some hundred thousand bytes tell a change of 0.01.
        max_increase: Stop training once the bits per byte are more than this above their value
            before training; None: never.
        tokenizer: The model's own; None: the trainer's.
        **options: `window_bytes` and other options of `bits_per_byte`.

    Raises:
        InputError: `max_increase` is negative; training starts without evaluations.
    """

    def __init__(
        self,
        trainer: Trainer,
        texts: Sequence[str],
        *,
        max_increase: float | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> None:
        if max_increase is not None and not max_increase >= 0:
            raise InputError(
                f"max_increase is {max_increase}; give bits per byte, at least 0, or None"
            )
        self._trainer = trainer
        self._texts = texts
        self._max_increase = math.inf if max_increase is None else max_increase
        self._tokenizer = tokenizer or trainer.processing_class
        self._options = options
        self._measured_at = -1
        self.start = math.nan
        """Bits per byte before training."""
        self.latest = math.nan
        """Bits per byte at the last evaluation."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure the model as it is, or read from a resumed run's log what it was."""
        if args.eval_strategy == IntervalStrategy.NO:
            raise InputError(
                "args.eval_strategy is 'no', so retention would never be measured; set it to "
                "'steps' or 'epoch'"
            )
        logged = [entry[METRIC] for entry in state.log_history if METRIC in entry]
        if logged:
            self.start, self.latest = logged[0], logged[-1]
            self._measured_at = -1
        else:
            self._measure(state)
            self.start = self.latest

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Measure, once a step however many evaluation sets there are; stop if too much is lost."""
        # Asked for at step 0 too (`eval_on_start`), right after training began.
        if self._measured_at != state.global_step:
            self._measure(state)
        metrics[METRIC] = self.latest
        if self.latest > self.start + self._max_increase:
            control.should_training_stop = True

    def _measure(self, state: TrainerState) -> None:
        # In every process: they share out the text, so that a forward pass must not synchronize
        # them, as that of a replica does.
        model: Any = self._trainer.model_wrapped
        if isinstance(model, DistributedDataParallel):
            model = model.module
        measured = bits_per_byte(model, self._tokenizer, self._texts, **self._options)
        self.latest, self._measured_at = measured.bits_per_byte, state.global_step
        self._trainer.log({METRIC: self.latest})
