"""The averaged model of a run as one safetensors file, gathered tensor by tensor if sharded."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bequest.averaging.live import WeightAverages
from bequest.averaging.model_tensors import clean_name, entry_of, reshard, unwrapped
from bequest.averaging.tensor_file import Entry, write_tensors


def export_average(averages: WeightAverages, model: nn.Module, name: str, file: Path) -> None:
    """Write the whole model with an average's weights, in the model's own dtypes.

    In a distributed run every process calls it; the first one writes. Memory holds one whole
    tensor at a time. Tied weights are written once, under their first name.

    Args:
        averages: The run's averages.
        model: The model that is trained; it has its own weights again afterwards.
        name: Which average.
        file: The safetensors file to write; its folder exists.

    Raises:
        InputError: There is no such average, or not yet.
        StorageError: The file could not be written.
    """
    writes = not dist.is_initialized() or dist.get_rank() == 0
    with averages.applied(model, name):
        reshard(model)
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for key, tensor in unwrapped(model).state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[clean_name(key)] = tensor.detach()
        if writes:
            write_tensors(file, {key: _gathering(tensor) for key, tensor in tensors.items()})
        else:
            for tensor in tensors.values():
                _whole(tensor)
        if dist.is_initialized():
            dist.barrier()


def _gathering(tensor: Tensor) -> Entry:
    # A DTensor states the whole's shape; its values are gathered when their turn comes.
    described = entry_of(tensor, tensor.dtype)
    return Entry(
        dtype=described.dtype,
        shape=described.shape,
        read=lambda: entry_of(_whole(tensor), tensor.dtype).read(),
    )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
