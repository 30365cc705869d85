"""Learn from a teacher's distribution beside the text: KL mixed into the training loss.

The teacher runs on each batch without gradients, and only what it hands to its head is kept; of
both models' logits no more than a chunk of tokens is made at once for the KL (`kl_penalty`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bequest.averaging.model_tensors import is_sharded
from bequest.errors import InputError
from bequest.losses.head import CausalHead, find_head, last_hidden_states
from bequest.losses.token_losses import IGNORED
from bequest.training.distillation_config import DistillationConfig
from bequest.training.kl_penalty import KlPenalty
from bequest.training.pretrain_plan import PretrainPlan
from bequest.training.pretrain_trainer import PretrainTrainer


class Teacher:
    """A model that is not trained, and what it says of each token.

    Args:
        model: on the device that training runs on; it is put into evaluation mode.

    Raises:
        UnsupportedModelError: its logits are not made by a linear layer, a scale and a soft cap.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model.eval().requires_grad_(False)
        self._head = find_head(model, torch.arange(4, device=model.device)[None])

    @torch.no_grad()
    def predictions(self, inputs: dict[str, Any]) -> tuple[CausalHead, Tensor]:
        """Return its head and what it hands to it at predicted positions, tokens x hidden.

        Args:
            inputs: the batch: (B, T) ids and labels.
        """
        hidden_states = last_hidden_states(self._model, self._head, inputs["input_ids"])
        return self._head, hidden_states[:, :-1][inputs["labels"][:, 1:] != IGNORED]


class DistillingTrainer(PretrainTrainer):
    """PretrainTrainer whose training loss is mixed with the KL to a teacher; evaluations are plain.

    Args:
        *arguments: as PretrainTrainer takes them.
        teacher: the teacher.
        distillation: how much of it.
        **named: as PretrainTrainer takes them.

    Raises:
        InputError: the model is, or will be, sharded or split over devices of one process.
        UnsupportedModelError: the model's logits are not made from its last hidden states by a
            linear layer, a scale and a soft cap.
    """

    def __init__(
        self,
        *arguments: Any,
        teacher: Teacher,
        distillation: DistillationConfig,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        spread = self.is_deepspeed_enabled or self.is_fsdp_enabled or is_sharded(self.model)
        if spread or self.args.n_gpu > 1:
            raise InputError(
                "distillation needs the whole model in each process (no FSDP, no DeepSpeed, one "
                "GPU a process); start it with torchrun, or leave distillation out"
            )
        self.teacher = teacher
        self.distillation = distillation
        self._kl = KlPenalty(self.model, temperature=distillation.temperature)
        self._since_log: list[Tensor] = []

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the mixed loss; of a model that is being evaluated, the plain one."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weight = self.distillation.weight
        with self.accelerator.autocast():
            first = self.teacher.predictions(inputs)
        with self._kl.watched(self.model) as hidden_states:
            # A copy, because label smoothing takes the labels out.
            found = super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        plain, outputs = found if return_outputs else (found, None)
        with self.accelerator.autocast():
            total = self._kl.total(first, inputs, hidden_states[0])
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        self._since_log.append(torch.stack([total.detach().double(), tokens.double()]))
        loss = (1 - weight) * plain + weight * self._share(total, tokens, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _share(self, total: Tensor, tokens: Tensor, num_items_in_batch: Any) -> Tensor:
        """Divide a micro-batch's sum as Trainer divides that of the cross-entropy."""
        if num_items_in_batch is None:
            return total / tokens.clamp(min=1)
        whole = self.args.average_tokens_across_devices
        processes = self.accelerator.num_processes // self.get_tp_size() if whole else 1
        shared: Tensor = total / num_items_in_batch * processes
        return shared

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, the KL in nats a token beside the training loss."""
        if "loss" in logs and self._since_log:
            summed = torch.stack(self._since_log).sum(0).float()
            self._since_log.clear()
            total, tokens = self.accelerator.reduce(summed, reduction="sum").tolist()
            logs["kl"] = total / self.distillation.temperature**2 / max(tokens, 1)
        super().log(logs, start_time)


def trainer_of(
    plan: PretrainPlan, trainer_class: type[PretrainTrainer]
) -> Callable[..., PretrainTrainer]:
    """Return what makes the run's trainer: with its teacher, if the plan has one, which is loaded.

    Args:
        plan: of the run.
        trainer_class: what is asked for.

    Raises:
        InputError: the class has a loss of its own, or the teacher cannot be loaded.
    """
    if plan.teacher is None or plan.distillation is None:
        return trainer_class
    if trainer_class is PretrainTrainer:
        trainer_class = DistillingTrainer
    if not issubclass(trainer_class, DistillingTrainer):
        raise InputError(
            f"distillation is set, but {trainer_class.__name__} is no DistillingTrainer; derive it "
            "from that, or leave distillation out"
        )
    model: Any = plan.teacher.load(plan.arguments.seed)
    teacher = Teacher(model.to(plan.arguments.device))
    return partial(trainer_class, teacher=teacher, distillation=plan.distillation)
