"""A model's tensors at one step, copied to host memory without holding up the next step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class HostCopier:
    """Copies tensors into host buffers that it keeps: one model's size, pinned for a GPU.

    On a GPU the copies run on a stream of their own, beside the next forward and backward pass.
    What must not happen is that the optimizer overwrites a weight before it is copied: its next
    step waits for the copies, on the device. Without an optimizer to hook, the current stream
    waits at once.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: dict[torch.device, torch.cuda.Event] = {}
        self._hooked: weakref.WeakSet[Optimizer] = weakref.WeakSet()

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
        for device, names in devices.items():
            sources, targets = [tensors[n] for n in names], [self._buffers[n] for n in names]
            if device.type == "cuda":
                self._copy_beside(device, sources, targets)
            else:
                torch._foreach_copy_(targets, sources)
        if optimizer is None:
            self.order_after_copies()
        elif optimizer not in self._hooked:
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

    def _copy_beside(
        self, device: torch.device, sources: list[Tensor], targets: list[Tensor]
    ) -> None:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            torch._foreach_copy_(targets, sources, non_blocking=True)
            for source in sources:
                # Should the model be freed meanwhile, its memory must wait for this stream too.
                source.record_stream(stream)
            self._events[device] = stream.record_event()

    def _before_step(self, *_: Any) -> None:
        self.order_after_copies()
