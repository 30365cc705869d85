"""A snapshot holds one step's values, whatever is written to the weights while it is copied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from bequest.averaging.model_tensors import tracked_tensors
from bequest.averaging.snapshot import HostCopier, written_by_step
from bequest.training.start_weights import StartWeights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_only_an_optimizers_own_parameters_may_wait_for_its_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    tensors = tracked_tensors(model)
    everything = torch.optim.SGD(model.parameters())
    assert written_by_step(tensors, everything) == dict(model.named_parameters()).keys()
    first = torch.optim.SGD(model[0].parameters())
    assert written_by_step(tensors, first) == {"0.weight", "0.bias"}
    # Its real optimizers act during the backward pass, where no hook of this one is called.
    layer_wise = LayerWiseDummyOptimizer(optimizer_dict={})
    assert written_by_step(tensors, layer_wise) == written_by_step(tensors, None) == set()


def test_swaps_and_blends_of_the_start_come_after_the_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(2, 2)
    start = StartWeights(model, on_device=True)
    with torch.no_grad():
        model.weight.add_(1)
    now = model.weight.detach()
    trained, seen = now.clone(), []
    monkeypatch.setattr(HostCopier, "order_after_copies", lambda _: seen.append(now.clone()))
    copier = HostCopier()  # it is asked for as long as it is there
    with start.swapped_in(model):
        assert torch.equal(seen[0], trained)
        assert not torch.equal(now, trained)
    seen.clear()
    start.blend(model, 0.5)
    assert torch.equal(seen[0], trained)
    assert not torch.equal(now, trained)
    del copier


def copies_late(copier: HostCopier, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Start a snapshot whose copies wait for about a second, whatever the machine."""
    device = next(model.parameters()).device
    copier.start(tracked_tensors(model), optimizer)  # allocates pinned memory
    copier.finish()
    torch.cuda.synchronize()
    stream = copier._streams.setdefault(device, torch.cuda.Stream(device))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(2_000_000_000)
    copier.start(tracked_tensors(model), optimizer)


def backward(model: nn.Module) -> None:
    model(torch.ones(8, 64, device="cuda")).square().mean().backward()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, start: StartWeights) -> None:
    optimizer.step()


def swap(model: nn.Module, optimizer: torch.optim.Optimizer, start: StartWeights) -> None:
    with start.swapped_in(model):
        torch.cuda.synchronize()  # copies that did not come before the swap come now


def blend(model: nn.Module, optimizer: torch.optim.Optimizer, start: StartWeights) -> None:
    start.blend(model, 0.5)


def forward(model: nn.Module, optimizer: torch.optim.Optimizer, start: StartWeights) -> None:
    backward(model)


def layer_wise(model: nn.Module, optimizer: torch.optim.Optimizer, start: StartWeights) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)


Writer = Callable[[nn.Module, torch.optim.Optimizer, StartWeights], None]


@needs_gpu
@pytest.mark.parametrize("write", [step, swap, blend, forward, layer_wise])
def test_what_is_written_meanwhile_is_not_in_the_snapshot(write: Writer) -> None:
    layers: list[nn.Module] = [nn.Linear(64, 64), nn.Linear(64, 64)]
    if write is forward:
        layers.insert(1, nn.BatchNorm1d(64))
    model = nn.Sequential(*layers).cuda()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    if write is layer_wise:
        optimizer = LayerWiseDummyOptimizer(optimizer_dict={})
    start = StartWeights(model, on_device=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for _ in range(2):  # the first time loads kernels, which takes longer than the sleep
        backward(model)
        copier = HostCopier()
        copies_late(copier, model, optimizer)
        before = {name: tensor.clone() for name, tensor in tracked_tensors(model).items()}
        write(model, optimizer, start)
        copies = copier.finish()
        now: dict[str, Tensor] = tracked_tensors(model)
        if write is not swap:
            assert any(not torch.equal(now[name], before[name]) for name in before)
        for name, tensor in before.items():
            assert torch.equal(copies[name], tensor.cpu()), name


@needs_gpu
def test_a_snapshot_holds_up_no_forward_or_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    backward(model)
    copier = HostCopier()
    copies_late(copier, model, optimizer)
    backward(model)
    torch.cuda.current_stream().synchronize()
    (event,) = copier._events.values()
    assert not event.query()
    optimizer.step()
    torch.cuda.current_stream().synchronize()
    assert event.query()
