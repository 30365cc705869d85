"""Blends with the start: several times while training (SFA), or once after it (WiSE-FT)."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bequest.errors import InputError


def sfa_steps(times: int, max_steps: int) -> list[int]:
    """Return after which steps theta is blended: at equal distances, the last at the end.

    Source: arXiv 2501.05559, Algorithm 1, where p = 1 / times; FLOW's paper takes 4.

    Raises:
        InputError: There are more blends than steps.
    """
    if times > max_steps:
        raise InputError(
            f"sfa is {times}, but training has only {max_steps} steps; blend at most once a step"
        )
    return [round(max_steps * place / times) for place in range(1, times + 1)]


class StartBlends(TrainerCallback):
    """Carries out a method's blends.

    SFA acts between the optimizer's step and whatever happens at the step's end, so a checkpoint
    of that step, whoever asked for it, holds the blended weights, and a resumed run does not blend
    them again. WiSE-FT acts when training has ended: checkpoints hold the weights before it.

    Args:
        trainer: An `AnchoredTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keep the start, if no resumed checkpoint has done that yet."""
        sfa_steps(self._trainer.method.sfa, state.max_steps)
        self._trainer.keep_start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Blend, where it is due; the step is counted only after this."""
        method = self._trainer.method
        if state.global_step + 1 in sfa_steps(method.sfa, state.max_steps):
            self._trainer.start.blend(self._trainer.model, method.sfa_alpha)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Blend the weights that training ends with, the best checkpoint's if that was loaded."""
        share = self._trainer.method.wise_ft
        if share is not None:
            self._trainer.start.blend(self._trainer.model, share)
