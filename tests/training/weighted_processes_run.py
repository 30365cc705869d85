"""WeightedTrainer in two processes over gloo: `torchrun --nproc-per-node 2 THIS FOLDER`.

Not a test: `test_weighted_trainer.py` starts it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save_file

from bequest.losses.processes import leave_processes
from bequest.training.weighted_trainer import WeightedTrainer
from tests.training.test_weighted_trainer import WEIGHTS
from tests.training.weighted_runs import parameters, trained


def main(folder: Path) -> None:
    """Train one step of 2 processes x 4 samples x 2 accumulated, and write the weights."""
    args = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    for normalizer in ("samples", "weights"):
        run = trained(
            WeightedTrainer,
            folder / "two",
            args={**args, "ddp_backend": "gloo"},
            weights=WEIGHTS,
            normalizer=normalizer,
        )
        assert dist.get_world_size() == 2
        if dist.get_rank() == 0:
            save_file(parameters(run), folder / f"{normalizer}.safetensors")
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
