"""About how long a fine-tuning run will take and how much memory, before it starts.

The time is that of the matrix products, at the speed that this device shows on products of the
model's own shape, and of the optimizer, at the speed at which the device moves memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from bequest.averaging.recipes import LatestWeightAverage
from bequest.training.finetune_plan import FinetunePlan

_STATE_BYTES = {"adafactor": 0, "sgd": 0, "8bit": 2, "4bit": 1, "lion": 4}
"""Bytes of optimizer state a parameter, where it is not AdamW's 8."""
_ACTIVATIONS = 34
"""Values kept for a token in a block of width 1 without checkpointing, in halves of a float32:
Korthikanti et al., arXiv 2205.05198, equation 1 without the attention matrices."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate, good to a factor of about two."""

    seconds: float
    """Of training: without scoring, evaluations and loading."""
    scoring_seconds: float
    """Of scoring before it."""
    weights: float
    """Bytes of the model's weights."""
    gradients: float
    """Bytes of gradients and optimizer state."""
    activations: float
    """Bytes kept between forward and backward pass, for one micro-batch."""
    averages: float
    """Bytes of running averages."""
    tokens: int
    """Tokens that are trained on, padding left out."""

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.activations + self.averages


def estimate(plan: FinetunePlan) -> Cost:
    """Estimate a run's cost; takes about a second of the device."""
    args, config = plan.args, plan.model_config.get_text_config()
    width = int(getattr(config, "hidden_size", 768))
    layers = int(getattr(config, "num_hidden_layers", 12))
    size, tokens, longest = _read_tokens(plan)
    frozen = plan.config.lora is not None
    checkpointing = bool(args.gradient_checkpointing)
    # Forward 2, gradients of activations 2, of weights 2; another forward under checkpointing.
    products = 2 + 2 + (0 if frozen else 2) + (2 if checkpointing else 0)
    mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else plan.dtype
    rate = _product_rate(args.device, mixed, int(longest), width)
    total = plan.scoring.num_parameters
    state = next((n for name, n in _STATE_BYTES.items() if name in str(args.optim).lower()), 8)
    element = torch.finfo(plan.dtype).bits // 8
    per_trained = element + state
    updates = plan.num_steps * plan.num_trained * 3 * per_trained / _memory_rate(args.device)
    scoring = plan.scoring.cost()[0] if plan.scores_file is not None else 0.0
    kept = 2 if checkpointing else _ACTIVATIONS
    half = torch.finfo(mixed).bits / 16
    once = _ACTIVATIONS * width * longest * half if checkpointing else 0.0
    shadows = sum(not isinstance(r, LatestWeightAverage) for r in plan.recipes.values())
    return Cost(
        seconds=products * total * size / rate + updates,
        scoring_seconds=scoring,
        weights=float(total * element),
        gradients=float(plan.num_trained * per_trained),
        activations=kept * width * layers * longest * half + once,
        averages=4.0 * plan.num_trained * shadows,
        tokens=int(tokens),
    )


def _read_tokens(plan: FinetunePlan) -> tuple[float, float, float]:
    """Return what a process computes over the run, what is trained on, and a micro-batch's size."""
    args, lengths = plan.args, plan.lengths
    batch = int(args.per_device_train_batch_size)
    rows = plan.num_steps * args.gradient_accumulation_steps * batch
    mean = float(lengths.mean())
    if args.packing or args.padding_free:
        own = float(args.max_length if args.packing else mean)
        per_row = min(own, float(lengths.sum()))
        return rows * per_row, rows * args.world_size * per_row, batch * per_row
    # What padding adds, by one random order of the samples.
    order = np.random.default_rng(0).permutation(len(lengths))
    whole = max(1, len(order) // batch)
    groups = np.array_split(lengths[order], whole)
    padded = float(np.mean([group.max() for group in groups]))
    return rows * padded, rows * args.world_size * mean, batch * float(lengths.max())


def _product_rate(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> float:
    """Return floating-point operations a second on products of the model's shape."""
    rows = min(max(tokens, 1), 2048)
    left = torch.ones(rows, width, device=device, dtype=dtype)
    right = torch.ones(width, 4 * width, device=device, dtype=dtype)
    return 8.0 * rows * width * width / _fastest(lambda: left @ right)


def _memory_rate(device: torch.device) -> float:
    """Return bytes a second that an addition reads and writes."""
    values = torch.ones(1 << 24, device=device)
    return 2.0 * values.numel() * 4 / _fastest(lambda: values.add_(1.0))


def _fastest(call: object) -> float:
    assert callable(call)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        float(call().flatten()[0])  # Waits for the device.
        seconds.append(time.perf_counter() - started)
    return max(min(seconds), 1e-9)
