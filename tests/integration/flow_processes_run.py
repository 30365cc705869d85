"""FlowTrainer in two processes over gloo: `torchrun --nproc-per-node 2 THIS FOLDER ddp|fsdp`.

Not a test: `test_flow_processes.py` starts it, with the settings of each run in `runs.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from bequest.errors import InputError
from bequest.losses.processes import leave_processes
from bequest.training.method import MethodConfig
from tests.training.sft_runs import losses, trained


def load(folder: Path, kind: str) -> Any:
    """The start model, replicated or sharded."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if kind == "fsdp":
        from transformers.distributed import DistributedConfig

        options["distributed_config"] = DistributedConfig(fsdp_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder / "start", **options)
    assert all(isinstance(p, DTensor) == (kind == "fsdp") for p in model.parameters())
    return model


def options_of(how: dict[str, Any]) -> dict[str, Any]:
    """The trainer's options of a run, with its method read."""
    options = dict(how["options"])
    if "method" in options:
        options["method"] = MethodConfig(**options["method"])
    return options


def main(folder: Path, kind: str) -> None:
    """Train as told, and write the weights and the losses of each run."""
    for name, how in json.loads((folder / "runs.json").read_text()).items():
        args = {**how["args"], "per_device_train_batch_size": 2, "ddp_backend": "gloo"}
        if name == "refused":
            with pytest.raises(InputError, match="the model is sharded"):
                trained(folder / kind, model=load(folder, kind), args=args, **options_of(how))
            continue
        run = trained(folder / kind, model=load(folder, kind), args=args, **options_of(how))
        assert dist.get_world_size() == 2
        if run.weighing.is_static:
            everyone: list[Any] = [None, None]
            dist.all_gather_object(everyone, run.train_dataset["loss_weights"][:])
            assert everyone[0] == everyone[1]
        assert all(isinstance(p, DTensor) == (kind == "fsdp") for p in run.model.parameters())
        whole = {
            key: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
            for key, p in run.model.named_parameters()
        }
        if dist.get_rank() == 0:
            save_file(whole, folder / f"{kind}-{name}.safetensors")
            (folder / f"{kind}-{name}.json").write_text(json.dumps(losses(run)))
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
