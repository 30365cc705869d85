"""A Trainer in two processes over gloo: `torchrun --nproc-per-node 2 THIS FOLDER ddp|fsdp`.

Not a test: `test_averaging_trainer.py` starts it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from bequest.averaging.recipes import ExponentialMovingAverage, LatestWeightAverage
from bequest.losses.processes import leave_processes
from bequest.training.averaging_callback import WeightAveragingCallback


def tokens(seed: int, rows: int) -> Dataset:
    steps = np.random.default_rng(seed).integers(1, 4, size=(rows, 12))
    ids = (np.cumsum(steps, axis=1) % 64).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def load(folder: Path, kind: str) -> Any:
    options: dict[str, Any] = {"dtype": torch.float32}
    if kind == "fsdp":
        from transformers.distributed import DistributedConfig

        options["distributed_config"] = DistributedConfig(fsdp_size=2)
    return AutoModelForCausalLM.from_pretrained(folder / "start", **options)


def main(folder: Path, kind: str) -> None:
    model = load(folder, kind)
    sharded = any(isinstance(p, DTensor) for p in model.parameters())
    assert sharded == (kind == "fsdp")
    resumable = {} if kind == "ddp" else {"save_only_model": True}
    args = TrainingArguments(
        output_dir=str(folder / kind),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=3e-2,
        eval_strategy="steps",
        eval_steps=3,
        save_steps=3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        ddp_backend="gloo",
        **resumable,
    )
    trainer = Trainer(model, args, train_dataset=tokens(0, 64), eval_dataset=tokens(1, 12))
    averaging = WeightAveragingCallback(
        trainer,
        lawa=LatestWeightAverage(window=2, spacing=2),
        ema=ExponentialMovingAverage(beta=0.8),
    )
    trainer.add_callback(averaging)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, [entry["eval_lawa_loss"] for entry in log])
    assert everyone[0] == everyone[1], everyone
    if kind == "ddp":
        resumed = Trainer(
            load(folder, kind), args, train_dataset=tokens(0, 64), eval_dataset=tokens(1, 12)
        )
        again = WeightAveragingCallback(
            resumed,
            lawa=LatestWeightAverage(window=2, spacing=2),
            ema=ExponentialMovingAverage(beta=0.8),
        )
        resumed.add_callback(again)
        before = own_averages(averaging, trainer)
        resumed.train(resume_from_checkpoint=str(folder / kind / "checkpoint-3"))
        assert before == own_averages(again, resumed)
    if dist.get_rank() == 0:
        (folder / f"{kind}.json").write_text(json.dumps(log))
    dist.barrier()
    leave_processes()


def own_averages(averaging: WeightAveragingCallback, trainer: Trainer) -> dict[str, bytes]:
    """The averages as every process has them while they are applied."""
    found = {}
    for name in ("lawa", "ema"):
        with averaging.averages.applied(trainer.model, name):
            for key, value in trainer.model.state_dict().items():
                found[f"{name}.{key}"] = value.numpy().tobytes()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
