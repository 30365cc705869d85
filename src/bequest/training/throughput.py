"""Tokens per second, and which share of the device's arithmetic a training step uses (MFU).

Model FLOPs of a token, forward and backward, as in PaLM (arXiv 2204.02311, appendix B):

    6 N + 12 L H Q T

N parameters that multiply (without embeddings that are only looked up), L layers, H heads of size
Q, T tokens of a block. Recomputation is not counted, nor that half of causal attention is masked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense bf16 (V100, T4: fp16) FLOP/s of NVIDIA's data sheets, by what a device's name contains."""
_SIZES = {"cpu": 1024, "cuda": 8192}


def flops_per_token(model: PreTrainedModel, block_length: int) -> float | None:
    """Return the FLOPs of training on one token; None for a mixture of experts.

    Args:
        model: its weights may be on the meta device.
        block_length: tokens of a block.
    """
    config = model.config.get_text_config()
    if any(
        getattr(config, name, None)
        for name in ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok")
    ):
        return None
    multiplied: int = model.num_parameters() - _looked_up(model)
    heads = getattr(config, "num_attention_heads", None) or 0
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    attended: int = 12 * config.num_hidden_layers * heads * size * block_length
    return 6.0 * multiplied + attended


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Return the FLOP/s that a device can reach, and how that is known.

    A GPU's is that of its data sheet, if it is known and bf16 or fp16 is used; otherwise it is
    measured: the fastest of several products of two square matrices.
    """
    if device.type == "cuda" and dtype != torch.float32:
        name = torch.cuda.get_device_name(device)
        for part, peak in _PEAKS.items():
            if part in name:
                return peak, f"data sheet of {part}, dense {str(dtype).removeprefix('torch.')}"
    size = _SIZES.get(device.type, 1024)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        rates.append(2 * size**3 / (time.perf_counter() - started))
    kind = str(dtype).removeprefix("torch.")
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return max(rates), f"measured: {size} x {size} {kind} matrix product{threads}"


class Throughput(TrainerCallback):
    """Measures the time of training alone: evaluations and saving do not count.

    Args:
        tokens_after: how many tokens all processes have read after a number of steps.
        flops_per_token: of the model; None logs no utilisation.
        peak: FLOP/s of all devices together.
    """

    def __init__(
        self, tokens_after: Callable[[int], int], flops_per_token: float | None, peak: float
    ) -> None:
        self._tokens_after = tokens_after
        self._flops_per_token = flops_per_token
        self._peak = peak
        self._mark = 0.0
        self._seconds = 0.0
        self._tokens = 0
        self._warm = False
        self.total_seconds = 0.0
        """Of all steps of this process that are logged, without those of the first entry."""
        self.total_tokens = 0
        """Tokens read in that time."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()
        self._seconds, self._tokens = 0.0, 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step's tokens; what follows until the next is not training."""
        self._take_time()
        step = state.global_step
        self._tokens += self._tokens_after(step) - self._tokens_after(step - 1)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget the time that the evaluation took."""
        self._mark = time.perf_counter()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget the time that saving took."""
        self._mark = time.perf_counter()

    def since_last_log(self) -> dict[str, float]:
        """Return what to log, and begin anew. The loss was just read, so the device has finished."""
        self._take_time()
        if not self._tokens or not self._seconds:
            return {}
        rate = self._tokens / self._seconds
        # A process's first steps allocate and compile.
        if self._warm:
            self.total_seconds += self._seconds
            self.total_tokens += self._tokens
        self._warm = True
        self._seconds, self._tokens = 0.0, 0
        logged = {"tokens_per_second": rate}
        if self._flops_per_token is not None:
            logged["mfu"] = rate * self._flops_per_token / self._peak
        return logged

    @property
    def tokens_per_second(self) -> float | None:
        """Over all logged steps of this process."""
        if not self.total_seconds:
            return None
        return self.total_tokens / self.total_seconds

    @property
    def utilisation(self) -> float | None:
        """Model FLOP utilisation over the same steps."""
        rate = self.tokens_per_second
        if rate is None or self._flops_per_token is None:
            return None
        return rate * self._flops_per_token / self._peak

    def _take_time(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now


def _looked_up(model: PreTrainedModel) -> int:
    """Count parameters of embeddings that no matrix product uses."""
    head = model.get_output_embeddings()
    used = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    count = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            is_input = module is model.get_input_embeddings()
            if id(module.weight) in used or (is_input and tied):
                continue
            count += module.weight.numel()
    return count
