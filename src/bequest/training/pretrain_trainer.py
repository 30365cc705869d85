"""transformers' Trainer with a clock, a loss without logits, and a resume that stops in time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from bequest.losses.head import CausalHead
from bequest.training.fused_loss import FusedModel, find_fused_head
from bequest.training.throughput import Throughput
from bequest.training.whole_evaluation import whole_evaluation


class PretrainTrainer(Trainer):
    """The trainer of `bequest pretrain`; a subclass may change `compute_loss`.

    Args:
        model: A causal language model of transformers.
        *arguments: As Trainer takes them.
        throughput: What `tokens_per_second` and `mfu` in the log come from.
        fused_loss: Compute the training loss without the logits as a whole, where that gives the
            model's own loss and nothing stands against it (see `fused_head`).
        **named: As Trainer takes them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *arguments: Any,
        throughput: Throughput,
        fused_loss: bool = False,
        **named: Any,
    ) -> None:
        head = find_fused_head(model) if fused_loss else None
        super().__init__(model, *arguments, **named)
        self.throughput = throughput
        self.add_callback(throughput)
        self.fused_head: CausalHead | None = head if self._can_fuse() else None
        """The head of the fused loss; None if the model computes its loss itself."""

    def _can_fuse(self) -> bool:
        """Whether every process holds the whole head and runs the model as it is written."""
        args = self.args
        changes_the_loss = args.label_smoothing_factor or args.fp16 or args.use_liger_kernel
        changes_the_model = args.torch_compile or args.n_gpu > 1
        shards = self.is_fsdp_enabled or self.is_deepspeed_enabled or self.get_tp_size() > 1
        return not (changes_the_loss or changes_the_model or shards)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute Trainer's loss; while training through the fused head, if there is one."""
        if self.fused_head is None or not self.model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        fused: Any = FusedModel(model, self.fused_head, self.accelerator.autocast)
        return super().compute_loss(fused, inputs, False, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, the speed beside the training loss."""
        if "loss" in logs:
            logs |= self.throughput.since_last_log()
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Read all that is held out, also where `dataloader_drop_last` drops training text."""
        with whole_evaluation(self.args):
            return super().get_eval_dataloader(eval_dataset)

    def _run_epoch(self, **named: Any) -> None:
        # Resumed after its last step, in the middle of an epoch, Trainer would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**named)
