"""Run by torchrun: losses over two processes, in the ways a model can be held."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bequest.errors import InputError
from bequest.losses.linear_cross_entropy import weighted_linear_cross_entropy
from bequest.losses.processes import join_processes, leave_processes
from bequest.losses.token_losses import token_losses
from losses.test_token_losses import masked, sequences
from losses.tiny_models import tiny

BUDGET = 24


def main(out: Path) -> None:
    torch.set_num_threads(1)
    join_processes()
    assert dist.get_world_size() == 2
    rows = sequences()
    labels = masked(rows)
    found = {
        "plain": token_losses(tiny("llama"), rows, labels, tokens_per_batch=BUDGET),
        "ddp": token_losses(
            DistributedDataParallel(tiny("llama-tied").train()), rows, tokens_per_batch=BUDGET
        ),
        "resumed": token_losses(
            tiny("gemma2"), rows, labels, tokens_per_batch=BUDGET, spool=out / "gemma2"
        ),
        "spooled": token_losses(
            tiny("llama"), rows, labels, tokens_per_batch=BUDGET, spool=out / "llama"
        ),
    }
    for name in ("llama", "gemma2", "phi-bias"):
        sharded = tiny(name)
        for layer in sharded.model.layers:
            fully_shard(layer)
        fully_shard(sharded)
        assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
        found[f"fsdp-{name}"] = token_losses(sharded, rows, labels, tokens_per_batch=BUDGET)
        assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
        with pytest.raises(InputError, match="weight is a DTensor"):
            weighted_linear_cross_entropy(
                torch.zeros(1, 32), sharded.lm_head.weight, torch.tensor([0])
            )
    with pytest.raises(InputError, match="differ between processes"):
        token_losses(tiny("llama"), sequences(seed=dist.get_rank()))
    flat = {key: np.concatenate(value) for key, value in found.items()}
    np.savez(out / f"rank-{dist.get_rank()}.npz", **flat)
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
