"""The tensors of a model that an average is made of: this process's part of what training moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bequest.averaging.tensor_file import Entry
from bequest.checkpoints import dtypes
from bequest.errors import InputError

# What torch.compile and activation checkpointing put into names.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
_KNOWN = {*dtypes.CONVERTIBLE.values(), "I64", "I32", "I16", "I8", "U8", "BOOL"}


def tracked_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters and persistent buffers, the local shards of those sharded.

    Frozen parameters cannot differ from their average, so they are left out: of a PEFT model the
    adapter remains. Tied weights appear once, under their first name.

    Args:
        model: A module, also compiled, in DistributedDataParallel or under `fully_shard`.

    Returns:
        Live tensors, not copies, by name; those under FSDP2 as they lie when sharded.

    Raises:
        InputError: A trainable tensor has a dtype that cannot be averaged.
    """
    model = unwrapped(model)
    reshard(model)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[clean_name(name)] = local(parameter.detach())
    for name, buffer in _persistent_buffers(model):
        tensors[clean_name(name)] = local(buffer.detach())
    for name, tensor in tensors.items():
        if _safetensors(tensor.dtype) not in _KNOWN:
            raise InputError(
                f"model has the tensor {name} of dtype {tensor.dtype}, which bequest cannot "
                "average: keep trained weights in float32, bfloat16, float16 or float64."
            )
    return tensors


def reshard(model: nn.Module) -> None:
    """Put every FSDP2 module back into its shards.

    After a forward pass without a backward pass the outermost module keeps its gathered weights:
    they would hide the shards, and be used again after the shards have changed.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, whose names carry no prefix."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def is_sharded(model: nn.Module) -> bool:
    """Return whether any parameter is a DTensor, as under FSDP2 or tensor parallelism."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clean_name(name: str) -> str:
    """Return a tensor's name without what wrappers of modules add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of `dtype` are kept: at least float32 for floats."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def entry_of(tensor: Tensor, dtype: torch.dtype) -> Entry:
    """Describe a tensor for `write_tensors`; it is converted when its turn comes."""
    return Entry(
        dtype=_safetensors(dtype),
        shape=tuple(tensor.shape),
        read=lambda: to_numpy(tensor.to(device="cpu", dtype=dtype)),
    )


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a CPU tensor as an array; the bits of bfloat16 as uint16."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: NDArray[Any] = tensor.numpy()
    return array


def from_numpy(array: NDArray[Any]) -> Tensor:
    """Return an array as a CPU tensor that shares its memory; uint16 as the bits of bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _safetensors(dtype: torch.dtype) -> str:
    return dtypes.OF_TORCH.get(str(dtype).removeprefix("torch."), "")


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            transient = name in module._non_persistent_buffers_set
            if not transient and id(buffer) not in seen:
                seen.add(id(buffer))
                yield (f"{prefix}.{name}" if prefix else name), buffer
