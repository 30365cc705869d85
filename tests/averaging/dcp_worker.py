"""One of two processes that save a sharded model's checkpoints with torch.distributed.checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from averaging import runs
from bequest.losses.processes import leave_processes


def main(out: Path) -> None:
    """Save three steps of the tiny run, under FSDP2 and cut along the last axis."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for step in (1, 2, 3):
        model = runs.model(step)
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=out / "fsdp" / f"step{step}")
        columns = {
            name: distribute_tensor(tensor, mesh, [Shard(tensor.ndim - 1)])
            for name, tensor in runs.state_of(step).items()
        }
        dcp.save({"model": columns}, checkpoint_id=out / "columns" / f"step{step}")
    leave_processes()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
