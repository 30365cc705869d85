"""A model's tensors at one step, copied to host memory without holding up the next step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bequest.averaging.model_tensors import local


class HostCopier:
    """Copies tensors into host buffers that it keeps: one model's size, pinned for a GPU.

    On a GPU the copies run on a stream of their own, beside the next forward and backward pass.
    What must not happen is that a tensor is overwritten before it is copied. What an optimizer has
    in its parameter groups is written by its next step, which waits for the copies, on the device.
    All else (buffers, which the next forward pass may write; parameters of other optimizers, or of
    those that update during the backward pass) is copied first, and the current stream waits for
    it at once. Whoever writes to the optimizer's parameters in between must call
    `order_after_snapshots` before.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: dict[torch.device, torch.cuda.Event] = {}
        self._hooked: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        _COPIERS.add(self)

    def start(self, tensors: Mapping[str, Tensor], optimizer: Optimizer | None) -> None:
        """Begin to copy; the buffers of the copy before are used again, so be done with them.

        Args:
            tensors: The live tensors.
            optimizer: What changes them next; None if that is not known.
        """
        devices: dict[torch.device, list[str]] = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                pinned = tensor.is_cuda
                self._buffers[name] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned
                )
            devices.setdefault(tensor.device, []).append(name)
        for name in self._buffers.keys() - tensors.keys():
            del self._buffers[name]
        stepped = written_by_step(tensors, optimizer)
        for device, names in devices.items():
            if device.type != "cuda":
                torch._foreach_copy_([self._buffers[n] for n in names], [tensors[n] for n in names])
                continue
            self._copy_beside(device, {n: tensors[n] for n in names if n not in stepped})
            self.order_after_copies()
            self._copy_beside(device, {n: tensors[n] for n in names if n in stepped})
        if optimizer is not None and optimizer not in self._hooked:
            optimizer.register_step_pre_hook(self._before_step)
            self._hooked.add(optimizer)

    def finish(self) -> dict[str, Tensor]:
        """Wait on the host until the copies are there and return them."""
        for event in list(self._events.values()):
            event.synchronize()
        return self._buffers

    def order_after_copies(self) -> None:
        """Let what is put on each device's current stream from now on run after the copies."""
        for device, event in self._events.items():
            torch.cuda.current_stream(device).wait_event(event)

    def _copy_beside(self, device: torch.device, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            return
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            targets, sources = [self._buffers[name] for name in tensors], list(tensors.values())
            torch._foreach_copy_(targets, sources, non_blocking=True)
            for source in sources:
                # Should the model be freed meanwhile, its memory must wait for this stream too.
                source.record_stream(stream)
            self._events[device] = stream.record_event()

    def _before_step(self, *_: Any) -> None:
        self.order_after_copies()


_COPIERS: weakref.WeakSet[HostCopier] = weakref.WeakSet()


def order_after_snapshots() -> None:
    """Let later changes of weights run after every snapshot that is still being copied.

    Call it before weights are written by anything but an optimizer's step: a blend, a swap, a
    checkpoint that is loaded. It does not wait on the host, and on a CPU there is nothing to do.
    """
    for copier in list(_COPIERS):
        copier.order_after_copies()


def written_by_step(tensors: Mapping[str, Tensor], optimizer: Optimizer | None) -> set[str]:
    """Return the names of the tensors that an optimizer's own step writes, and nothing earlier.

    Those in its parameter groups: a stand-in whose work is done during the backward pass, such as
    transformers' for layer-wise optimizers, has none of the model's there.
    """
    groups = [] if optimizer is None else optimizer.param_groups
    addresses = {_address(local(p.detach())) for group in groups for p in group["params"]}
    return {name for name, tensor in tensors.items() if _address(tensor) in addresses}


def _address(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
