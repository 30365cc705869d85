"""The processes of one run: who takes which batches, and how the results come together."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

_ELEMENTS_AT_ONCE = 2**24
_PAUSE = 0.2
"""Seconds for a thread of the process group to end what it has begun."""


def join_processes() -> None:
    """Form the process group of a command that `torchrun` or `accelerate launch` started.

    Does nothing for a single process, or where a trainer has formed the group already. Results are
    gathered over gloo, from host memory, whatever the model runs on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def leave_processes() -> None:
    """Leave the process group, if there is one, as a process should before it ends.

    torch's gloo group has a thread that needs the interpreter's lock to drop a finished operation.
    If the group's last owner, such as a DDP wrapper, goes first, its destructor waits for that
    thread with the lock held, and the process hangs (seen with torch 2.13). The pause hands the
    lock over.
    """
    if dist.is_available() and dist.is_initialized():
        time.sleep(_PAUSE)
        dist.destroy_process_group()
        time.sleep(_PAUSE)


def rank_and_size() -> tuple[int, int]:
    """Return this process's number and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_of(items: Sequence[T], rank: int, size: int, *, in_step: bool) -> list[T]:
    """Deal items out in turn, so that shares of a sorted list cost about the same.

    Args:
        items: What is to be done, in the same order in every process.
        rank: Whose share is wanted.
        size: Among how many.
        in_step: Make all shares equally long, by repeating the last item: processes that hold
            pieces of one model must run it equally often.
    """
    share = list(items[rank::size])
    if in_step and len(share) < -(-len(items) // size):
        share.append(items[-1])
    return share


def is_sharded(model: nn.Module) -> bool:
    """Return whether processes hold pieces of the model rather than copies."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def from_first(value: T) -> T:
    """Return what the first process passes, in every process."""
    if rank_and_size()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: T) -> list[T]:
    """Return what each process passes, in the order of their numbers, in every process."""
    _, size = rank_and_size()
    if size == 1:
        return [value]
    found: list[T | None] = [None] * size
    dist.all_gather_object(found, value)
    return cast("list[T]", found)


def add_up(values: Tensor) -> None:
    """Add up a tensor in host memory over the processes, in place.

    Where each element is non-zero in one process only, this is an exact gather.
    """
    if rank_and_size()[1] == 1:
        return
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    for piece in values.split(_ELEMENTS_AT_ONCE):
        moved = piece.to(device)
        dist.all_reduce(moved)
        piece.copy_(moved)


def same_everywhere(number: float) -> bool:
    """Return whether all processes pass the same number."""
    bounds = torch.tensor([number, -number], dtype=torch.float64)
    if rank_and_size()[1] == 1:
        return True
    bounds = bounds.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    return bool(bounds[0] == -bounds[1])
