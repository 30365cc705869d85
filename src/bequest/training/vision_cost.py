"""About how long a run on images will take and how much memory, before it starts.

A few images are read, run forward and backward as they will be, and what that took is multiplied:
of convolutions, the operations alone say little about the time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from bequest.training.vision_data import ImageBatches
from bequest.training.vision_plan import ImagePlan

_TRIED = 4
"""Images that are run to see how long one takes."""


@dataclass(frozen=True, kw_only=True)
class ImageCost:
    """An estimate, good to a factor of about two, of a run none of whose stages is done."""

    seconds: float
    """Of all stages and of what is measured afterwards, without loading."""
    weights: float
    """Bytes of the model and the copies of it that are held at once."""
    gradients: float
    """Bytes of gradients and optimizer state."""
    activations: float
    """Bytes kept between forward and backward pass, for one micro-batch."""

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.activations


def estimate(plan: ImagePlan) -> ImageCost:
    """Estimate a run's cost; takes about a second of the device."""
    method, args = plan.config.method, plan.body_args
    weighted = method.scheme != "uniform" and not method.linear_probe
    rows = [plan.train[number] for number in range(min(_TRIED, len(plan.train)))]
    reading, pixels = _timed(lambda: ImageBatches(plan.processor)(rows)["pixel_values"])
    # In evaluation, so that no running statistics move.
    model = copy.deepcopy(plan.start).requires_grad_(True).eval().to(plan.device)
    pixels = pixels.to(plan.device)
    with torch.no_grad():
        forward, _ = _timed(lambda: _waited(model(pixels)["logits"]))
    kept = _Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda saved: saved):
        loss = model(pixels)["logits"].sum()
    loss.backward()
    both, _ = _timed(lambda: _stepped(model, pixels))
    passes = 1 if method.linear_probe else 2
    read = passes * len(plan.train)
    read += 2 * sum(len(part) for part in (plan.test, plan.retention) if part is not None)
    trained = 0.0 if method.linear_probe else _num_trained(args, len(plan.train))
    once = read * (reading + forward) + trained * (reading + both + (forward if weighted else 0))
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    parameters = sum(p.numel() for p in model.parameters())
    # What is trained, what it was, with the old head and the probe's, and where it is kept.
    copies = 2 if method.linear_probe else 4 + weighted + bool(method.l2)
    batch = args.per_device_train_batch_size
    return ImageCost(
        seconds=once / len(rows),
        weights=float(copies * size),
        gradients=0.0 if method.linear_probe else float(parameters * (4 + _state_bytes(args))),
        activations=0.0 if method.linear_probe else kept.num_bytes * batch / len(rows),
    )


def _num_trained(args: TrainingArguments, images: int) -> float:
    """Return how many images the whole model is trained on, each epoch's counted."""
    if args.max_steps > 0:
        return float(args.max_steps * args.train_batch_size * args.gradient_accumulation_steps)
    return float(args.num_train_epochs * images)


def _state_bytes(args: TrainingArguments) -> int:
    """Return the bytes of optimizer state a parameter."""
    name = str(args.optim).lower()
    if "sgd" in name:
        return 4 if "momentum" in (args.optim_args or "") else 0
    return 0 if "adafactor" in name else 8


class _Kept:
    """Adds up what autograd keeps; what it keeps twice counts once."""

    def __init__(self, model: nn.Module) -> None:
        # The weights are there anyway.
        self._seen = {v.untyped_storage().data_ptr() for v in model.state_dict().values()}
        self.num_bytes = 0

    def pack(self, saved: Tensor) -> Tensor:
        address = saved.untyped_storage().data_ptr()
        if address not in self._seen:
            self._seen.add(address)
            self.num_bytes += saved.untyped_storage().nbytes()
        return saved


def _stepped(model: Any, pixels: Tensor) -> None:
    model(pixels)["logits"].sum().backward()
    _waited(next(p.grad for p in model.parameters() if p.grad is not None))


def _waited(result: Tensor) -> None:
    float(result.flatten()[0])


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the shorter of two times in seconds, and what the call made."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        made = call()
        seconds.append(time.perf_counter() - started)
    return min(seconds), made
