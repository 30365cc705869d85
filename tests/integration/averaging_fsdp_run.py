"""Two processes over gloo with real FSDP2: `torchrun --nproc-per-node 2 THIS FOLDER`.

Not a test: `test_averaging_fsdp.py` starts it. Every assertion runs in both processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from bequest.averaging.export import export_average
from bequest.averaging.live import WeightAverages
from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    Recipe,
    StochasticWeightAverage,
)
from bequest.losses.processes import leave_processes

RECIPES: dict[str, Recipe] = {
    "lawa": LatestWeightAverage(window=3, spacing=2, coefficients="decay:cosine"),
    "ema": ExponentialMovingAverage(beta=0.8),
    "swa": StochasticWeightAverage(start=3, every=2),
}


class Net(nn.Module):
    """Sizes that two processes cannot share evenly, a tensor smaller than them, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(13, 7)
        self.block = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 7))
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.head = nn.Linear(7, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        self.seen += ids.numel()
        return self.head(self.block(self.embed(ids)) * self.scale)


def whole(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
        for name, t in model.state_dict().items()
    }


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    model, plain = Net(), Net()
    fully_shard(model.block)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    sharded = WeightAverages(folder / "sharded", **RECIPES)
    reference = WeightAverages(folder / "plain", **RECIPES)
    ids = torch.arange(13)
    for step in range(1, 12):
        loss = nn.functional.cross_entropy(model(ids), ids.roll(dist.get_rank() + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model(ids)  # leaves the outermost module gathered, as an evaluation does
        sharded.update(step, model, optimizer)
        plain.load_state_dict(whole(model))
        reference.update(step, plain)
        if step == 7:
            sharded.save(folder / "sharded" / "checkpoint-7")
            reference.save(folder / "plain" / "checkpoint-7")
        if step == 8:
            # Back by one step, as if killed: the shards' states are taken up again. A killed run's
            # writer is dead; this one would go on writing the file that is written again below.
            sharded.finish()
            sharded = WeightAverages(folder / "sharded", **RECIPES)
            sharded.load(folder / "sharded" / "checkpoint-7", model)
            sharded.update(8, model, optimizer)

    own = whole(model)
    with torch.no_grad():
        before = model(ids)
    own["seen"] += ids.numel()
    for name in RECIPES:
        with sharded.applied(model, name), reference.applied(plain, name), torch.no_grad():
            average = whole(plain)
            equal(whole(model), average)
            assert torch.equal(model(ids), plain(ids))
            assert not torch.equal(model(ids), before)
        equal(whole(model), own)
        with torch.no_grad():
            assert torch.equal(model(ids), before)
        own["seen"] += ids.numel()
        file = folder / f"{name}.safetensors"
        export_average(sharded, model, name, file)
        del average["head.weight"]  # tied: written once
        equal(load_file(file), average)

    shards = sorted(f.name for f in (folder / "sharded" / "averaging").glob("step-10*"))
    assert shards == [f"step-10-rank-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    local = load_file(folder / "sharded" / "averaging" / shards[dist.get_rank()])
    assert local["embed.weight"].shape == ((7, 7), (6, 7))[dist.get_rank()]
    assert (folder / "plain" / "averaging" / "step-10.safetensors").exists()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
