"""The weights that training starts from, kept beside the model: distances to them, blends with them.

All of it is arithmetic on this process's part of each tensor, so it is the same under FSDP2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bequest.averaging.model_tensors import clean_name, is_sharded, local, reshard, unwrapped
from bequest.averaging.snapshot import order_after_snapshots


class StartWeights:
    """A copy of a model's trained parameters as they are now.

    Args:
        model: A module, also in DistributedDataParallel or under `fully_shard`.
        on_device: Keep the copy where the parameters are; else in host memory.
    """

    def __init__(self, model: nn.Module, *, on_device: bool) -> None:
        self._tensors = {
            name: local(parameter.detach()).to(None if on_device else "cpu", copy=True)
            for name, parameter in _trained(model)
        }

    def of(self, model: nn.Module) -> dict[Tensor, Tensor]:
        """Return this process's part of the start of each parameter, by the parameter itself."""
        return {parameter: self._tensors[name] for name, parameter in _trained(model)}

    @torch.no_grad()
    def pull(self, model: nn.Module, strength: float) -> Tensor:
        """Add the gradient of `strength * ||theta - start||^2 / n` over n trained parameters.

        Args:
            model: Its gradients are those of the whole step, averaged over the processes.
            strength: lambda.

        Returns:
            The penalty, a float64 scalar, of all processes' parts together.
        """
        parameters = dict(_trained(model))
        factor = strength / sum(parameter.numel() for parameter in parameters.values())
        penalties = []
        for name, parameter in parameters.items():
            own = local(parameter.detach())
            apart = own - self._tensors[name].to(own.device)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            local(parameter.grad).add_(apart, alpha=2 * factor)
            penalties.append(apart.double().square().sum())
        penalty = factor * torch.stack(penalties).sum()
        if is_sharded(model):
            dist.all_reduce(penalty)
        return penalty

    @torch.no_grad()
    def blend(self, model: nn.Module, share: float) -> None:
        """Make theta `(1 - share) * start + share * theta`, in float64, rounded once.

        Source: WiSE-FT, arXiv 2109.01903, equation 1; SFA, arXiv 2501.05559.
        """
        order_after_snapshots()
        for name, parameter in _trained(model):
            own = local(parameter.detach())
            start = self._tensors[name].to(own.device)
            own.copy_(start.double() * (1 - share) + own.double() * share)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Let the model have its start weights inside a `with`, and its own again after it."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        order_after_snapshots()
        for name, parameter in _trained(model):
            own, start = local(parameter.detach()), self._tensors[name]
            waiting = own.clone()
            own.copy_(start)
            start.copy_(waiting)

    def fingerprint(self, model: nn.Module) -> list[float]:
        """Return two numbers that differ when the start does: sums of all values and their squares.

        They are the same, but for rounding, however the model is sharded.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        for tensor in self._tensors.values():
            values = tensor.detach().double()
            sums += torch.stack([values.sum(), values.square().sum()]).cpu()
        if is_sharded(model):
            device = next(model.parameters()).device
            on_device = sums.to(device)
            dist.all_reduce(on_device)
            sums = on_device.cpu()
        return [float(value) for value in sums]


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that are trained, those under FSDP2 as they lie when sharded."""
    model = unwrapped(model)
    reshard(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield clean_name(name), parameter
