"""transformers' Trainer with a clock, and a resume that does not train past the end."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from bequest.training.throughput import Throughput


class PretrainTrainer(Trainer):
    """The trainer of `bequest pretrain`; a subclass may change `compute_loss`.

    Args:
        *arguments: As Trainer takes them.
        throughput: What `tokens_per_second` and `mfu` in the log come from.
        **named: As Trainer takes them.
    """

    def __init__(self, *arguments: Any, throughput: Throughput, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.throughput = throughput
        self.add_callback(throughput)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, the speed beside the training loss."""
        if "loss" in logs:
            logs |= self.throughput.since_last_log()
        super().log(logs, start_time)

    def _run_epoch(self, **named: Any) -> None:
        # Resumed after its last step, in the middle of an epoch, Trainer would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**named)
