"""SFTTrainer with what holds a model to where it started: L2, KL, SFA, WiSE-FT, a linear probe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from bequest.averaging.model_tensors import is_sharded
from bequest.averaging.tensor_file import write_json
from bequest.errors import CheckpointError, InputError
from bequest.training.kl_penalty import KlPenalty
from bequest.training.linear_probe import freeze_body
from bequest.training.method import MethodConfig
from bequest.training.start_blends import StartBlends
from bequest.training.start_weights import StartWeights
from bequest.training.starting_losses import changed_base
from bequest.training.whole_evaluation import whole_evaluation

START = "bequest_start.json"
"""The file of a checkpoint that tells whether a resumed run starts from the same weights."""


class AnchoredTrainer(SFTTrainer):
    """SFTTrainer that carries out a `MethodConfig`'s baselines, but not its weights.

    The start is the model as it was when the trainer was made. A resumed run must be given the same
    model again: it is compared with what the checkpoint says about it.
    """

    method: MethodConfig
    start: StartWeights | None
    response_tokens: Tensor
    """How many tokens the step at hand predicts, over its micro-batches and processes."""

    def apply_method(self, method: MethodConfig) -> None:
        """Get ready for a method; the model has been made, and neither wrapped nor trained.

        Raises:
            InputError: The method cannot be had with this model or these arguments.
        """
        is_adapted = isinstance(self.model, PeftModel)
        method.check_adapters(is_adapted)
        self.method, self.start = method, None
        if method.linear_probe:
            freeze_body(self.model)
        if method.l2 and self.args.fp16:
            raise InputError("l2 is added to gradients, which args.fp16 scales; take args.bf16")
        if method.keeps_start and self.is_deepspeed_enabled:
            raise InputError(
                "l2, kl, sfa and wise_ft need the weights, which DeepSpeed keeps elsewhere; use "
                "FSDP2, or leave them out"
            )
        if method.kl and is_adapted:
            _check_adapters_off(self.model)
        self._kl = KlPenalty(self.model) if method.kl else None
        if method.keeps_start:
            self.add_callback(StartBlends(self))

    def keep_start(self) -> None:
        """Copy the weights, the first time that this is called.

        Raises:
            InputError: The model turned out to be sharded, and kl is asked for.
        """
        if self.method.kl and is_sharded(self.model):
            # Its graph would reach the head's shards past FSDP2's own reduction of gradients.
            raise InputError(
                f"kl is {self.method.kl}, but the model is sharded (FSDP2 or tensor parallelism), "
                "with which it is not known to be right; train replicated, or leave kl out"
            )
        if self.start is None and self._has_start:
            on_device = bool(self.method.l2 or self.method.kl)
            self.start = StartWeights(self.model, on_device=on_device)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        self.keep_start()
        if self._has_start:
            self._check_start(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._has_start and self.start is not None:
            fingerprint = self.start.fingerprint(self.model)
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            checkpoint = Path(self._get_output_dir(trial=trial)) / folder
            if self.args.should_save:
                checkpoint.mkdir(parents=True, exist_ok=True)
                write_json(checkpoint / START, {"fingerprint": fingerprint})
        super()._save_checkpoint(model, trial)

    @property
    def _has_start(self) -> bool:
        # Of adapters the start is the model without them.
        return self.method.keeps_start and not isinstance(self.model, PeftModel)

    def _check_start(self, checkpoint: Path) -> None:
        assert self.start is not None
        file = checkpoint / START
        if not file.is_file():
            raise CheckpointError(
                f"{checkpoint} has no {START}: it was saved without l2, kl, sfa and wise_ft, or by "
                "another trainer; resume with the method that it was saved with"
            )
        saved = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
        here = self.start.fingerprint(self.model)
        if not all(math.isclose(*pair, rel_tol=1e-9) for pair in zip(saved, here, strict=True)):
            raise CheckpointError(
                f"{checkpoint} was trained from other weights than the model that the trainer was "
                "given; give it the model that training first started from"
            )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a micro-batch; with a step's last one, add the gradient of the L2 penalty.

        Here and not in the loss, so that it counts once a step, whatever micro-batches and
        processes there are, and clipping sees it.
        """
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.method.l2 and self.accelerator.sync_gradients:
            assert self.start is not None
            penalty = self.start.pull(self.model, self.method.l2)
            self._metrics["train"]["l2_penalty"].append(penalty.item())
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute SFTTrainer's loss; while training, plus the KL to the start."""
        if self._kl is None or not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        first = self._kl.at_start(self.model, self.start, inputs)
        with self._kl.watched(self.model) as hidden_states:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total = self._kl.total(first, inputs, hidden_states[0])
        penalty = self.method.kl * total / self.response_tokens.clamp(min=1)
        processes = self.accelerator.num_processes // self.get_tp_size()
        summed = self.accelerator.gather(total.detach()[None]).sum() / self.response_tokens
        self._metrics["train"]["kl"].append(
            summed.item() * self.current_gradient_accumulation_steps
        )
        if return_outputs:
            return found[0] + penalty * processes, found[1]
        return found + penalty * processes

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Read all that is held out, also where `dataloader_drop_last` drops training samples."""
        with whole_evaluation(self.args):
            return super().get_eval_dataloader(eval_dataset)


def _check_adapters_off(model: PeftModel) -> None:
    """Refuse adapters without which the model is not the one that training started from."""
    reason = changed_base(model)
    for config in model.peft_config.values():
        bias = getattr(config, "bias", "none")
        if bias != "none":
            reason = f"bias={bias!r} trains biases of the model itself"
    if reason is not None:
        raise InputError(
            f"kl compares with the model without its adapters, but {reason}; use plain LoRA, or "
            "leave kl out"
        )
