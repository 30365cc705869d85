"""The live averages against the whole trajectory kept in float64."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from bequest.averaging.accumulate import Accumulator
from bequest.averaging.coefficients import coefficient_vector
from bequest.averaging.export import export_average
from bequest.averaging.live import WeightAverages
from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    StochasticWeightAverage,
)
from bequest.errors import BequestError, CheckpointError, InputError, StorageError


class Net(nn.Module):
    """Tied weights, a frozen layer, buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.BatchNorm1d(6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("transient", torch.ones(3), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.frozen(self.norm(self.embed(ids))))


def train(
    model: nn.Module, first: int, last: int, optimizer: torch.optim.Optimizer | None = None
) -> Iterator[int]:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(first, last + 1):
        ids = torch.randint(11, (8,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(ids), (ids + 1) % 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        a, b = np.asarray(left[name]), np.asarray(right[name])
        assert a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), name


def values(averages: WeightAverages, name: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in averages.average(name)}


def test_every_average_equals_its_definition(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(
        tmp_path,
        lawa=LatestWeightAverage(window=3, spacing=4, start=5, coefficients="decay:1-sqrt"),
        ema=ExponentialMovingAverage(beta=0.8, every=2, warmup=False),
        warm=ExponentialMovingAverage(beta=0.9),
        swa=StochasticWeightAverage(start=10, every=3),
    )
    trajectory: dict[int, dict[str, Tensor]] = {}
    for step in train(model, 1, 22):
        averages.update(step, model)
        trajectory[step] = snapshot(model)
    wide = {s: {k: v.double() for k, v in t.items()} for s, t in trajectory.items()}

    def weighted(steps: list[int], weights: list[float], name: str) -> Tensor:
        return sum(w * wide[s][name] for s, w in zip(steps, weights, strict=True)) / sum(weights)

    ema_steps = list(range(2, 23, 2))
    warm = [1.0]  # the weight of each step so far, from the definition of the recursion
    for t in range(1, 22):
        decay = min(0.9, 1 - (1 + t) ** (-2 / 3))
        warm = [w * decay for w in warm] + [1 - decay]
    expected = {
        "lawa": ([12, 16, 20], coefficient_vector("decay:1-sqrt", 3).tolist()),
        "ema": (ema_steps, [0.8 ** (len(ema_steps) - 1 - i) for i in range(len(ema_steps))]),
        "warm": (list(range(1, 23)), warm),
        "swa": ([12, 15, 18, 21], [1.0] * 4),
    }
    names = ["embed.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    for kind, (steps, weights) in expected.items():
        found = values(averages, kind)
        assert sorted(found) == sorted([*names, "norm.num_batches_tracked"])
        for name in names:
            assert found[name].dtype == torch.float32
            torch.testing.assert_close(
                found[name].double(), weighted(steps, weights, name), rtol=2e-6, atol=1e-7
            )
        assert found["norm.num_batches_tracked"] == steps[-1]


def test_lawa_is_the_offline_average_of_its_files_in_every_bit(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, lawa=LatestWeightAverage(window=3, spacing=2))
    for step in train(model, 1, 9):
        averages.update(step, model)
    averages.finish()
    files = sorted((tmp_path / "averaging").glob("*.safetensors"))
    assert [file.name for file in files] == [f"step-{s}.safetensors" for s in (4, 6, 8)]
    members = [load_file(file) for file in files]
    found = values(averages, "lawa")
    for name, array in members[-1].items():
        if array.dtype != np.float32:
            assert found[name].numpy() == array
            continue
        out = np.empty(array.size, np.float32)
        c = coefficient_vector("uniform", 3)
        Accumulator().average([m[name].reshape(-1) for m in members], c.tolist(), out)
        plain = sum(m[name].astype(np.float64) * (1 / 3) for m in members).astype(np.float32)
        assert found[name].numpy().tobytes() == out.tobytes() == plain.tobytes()


def test_applied_gives_the_average_and_then_the_own_weights_back(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, lawa=LatestWeightAverage(window=2, spacing=1))
    for step in train(model, 1, 4):
        averages.update(step, model)
    before, average = snapshot(model), values(averages, "lawa")
    with averages.applied(model, "lawa"):
        assert model.head.weight is model.embed.weight
        inside = snapshot(model)
        same({name: inside[name] for name in average}, average)
        assert not torch.equal(inside["embed.weight"], before["embed.weight"])
        torch.testing.assert_close(inside["frozen.weight"], before["frozen.weight"], rtol=0, atol=0)
    same(snapshot(model), before)
    with pytest.raises(ValueError, match="inside"), averages.applied(model, "lawa"):
        raise ValueError("inside")
    same(snapshot(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    model.frozen.to(dtype)
    averages = WeightAverages(
        tmp_path,
        lawa=LatestWeightAverage(window=4, spacing=1),
        ema=ExponentialMovingAverage(beta=0.5, warmup=False),
    )
    kept = []
    for step in range(1, 6):
        with torch.no_grad():
            model.embed.weight.add_(0.01 * step)
        averages.update(step, model)
        kept.append(model.embed.weight.detach().double().clone())
    found = values(averages, "lawa")["embed.weight"]
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    mean = sum(k * 0.25 for k in kept[-4:])
    with averages.applied(model, "lawa"):
        if dtype == torch.float64:
            assert torch.equal(model.embed.weight, mean)
        else:
            exact = mean.numpy()
            low = model.embed.weight.detach()
            grid = (
                torch.nextafter(low, torch.tensor(torch.inf, dtype=dtype)).double() - low.double()
            )
            assert (np.abs(low.double().numpy() - exact) <= grid.numpy() / 2).all()
    assert values(averages, "ema")["embed.weight"].dtype == found.dtype


def test_averages_share_the_snapshot_and_old_members_go(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(
        tmp_path,
        short=LatestWeightAverage(window=2, spacing=2),
        long=LatestWeightAverage(window=2, spacing=4),
    )
    for step in train(model, 1, 13):
        averages.update(step, model)
    averages.finish()
    found = {file.name for file in (tmp_path / "averaging").iterdir()}
    assert found == {"step-8.safetensors", "step-10.safetensors", "step-12.safetensors"}


def test_members_live_as_long_as_a_checkpoint_names_them(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, lawa=LatestWeightAverage(window=2, spacing=1))
    for step in train(model, 1, 6):
        averages.update(step, model)
        if step == 3:
            averages.save(tmp_path / "checkpoint-3")
    averages.finish()

    def steps() -> set[str]:
        return {f.stem.removeprefix("step-") for f in (tmp_path / "averaging").iterdir()}

    assert steps() == {"2", "3", "5", "6"}
    (tmp_path / "checkpoint-3" / "averaging" / "state.json").unlink()
    averages.save(tmp_path / "checkpoint-6")
    assert steps() == {"5", "6"}


def run(folder: Path, first: int, last: int, resume: Path | None = None) -> dict[str, Any]:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    averages = WeightAverages(
        folder,
        lawa=LatestWeightAverage(window=3, spacing=2, blend=0.7, exclude=["norm"]),
        ema=ExponentialMovingAverage(beta=0.9, every=2),
        swa=StochasticWeightAverage(start=4, every=3),
    )
    if resume is not None:
        state = torch.load(resume / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averages.load(resume, model)
    for step in train(model, first, last, optimizer):
        averages.update(step, model, optimizer)
        if step % 5 == 0:
            checkpoint = folder / f"checkpoint-{step}"
            averages.save(checkpoint)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint / "state.pt")
    return {
        f"{kind}.{name}": value
        for kind in averages.names
        for name, value in values(averages, kind).items()
    }


@pytest.mark.parametrize("stop", [5, 6, 9, 13])
def test_resumed_is_the_same_bytes(tmp_path: Path, stop: int) -> None:
    whole = run(tmp_path / "whole", 1, 17)
    run(tmp_path / "cut", 1, stop)
    at = stop // 5 * 5
    resumed = run(tmp_path / "cut", at + 1, 17, tmp_path / "cut" / f"checkpoint-{at}")
    same(whole, resumed)
    elsewhere = run(tmp_path / "other", at + 1, 17, tmp_path / "cut" / f"checkpoint-{at}")
    same(whole, elsewhere)


def test_a_resume_that_would_be_wrong_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1, 10)
    model = Net()
    recipes: dict[str, Any] = {"ema": ExponentialMovingAverage(beta=0.5, every=2)}
    with pytest.raises(CheckpointError, match="same settings"):
        WeightAverages(tmp_path, **recipes).load(tmp_path / "checkpoint-10", model)
    with pytest.raises(CheckpointError, match="without averages"):
        WeightAverages(tmp_path, **recipes).load(tmp_path / "checkpoint-11", model)
    lawa = LatestWeightAverage(window=3, spacing=2, blend=0.7, exclude=["norm"])
    member = tmp_path / "averaging" / "step-8.safetensors"
    data = bytearray(member.read_bytes())
    data[-1] ^= 1
    member.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-8\.safetensors has changed"):
        WeightAverages(tmp_path, lawa=lawa).load(tmp_path / "checkpoint-10", model)
    member.unlink()
    with pytest.raises(CheckpointError, match=r"step-8.safetensors cannot be read"):
        WeightAverages(tmp_path, lawa=lawa).load(tmp_path / "checkpoint-10", model)
    other = Net()
    other.norm.bias.requires_grad_(False)
    with pytest.raises(InputError, match=r"norm\.bias"):
        WeightAverages(tmp_path, swa=StochasticWeightAverage(start=4, every=3)).load(
            tmp_path / "checkpoint-10", other
        )


def test_wrong_use_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, lawa=LatestWeightAverage(window=2, spacing=2))
    for wrong, said in [
        (lambda: WeightAverages(tmp_path), "recipes is empty"),
        (lambda: averages.save(tmp_path / "checkpoint-1"), "has not seen a model"),
        (lambda: list(averages.average("lawa")), "none yet"),
        (lambda: LatestWeightAverage(spacing=0), "spacing is 0"),
        (lambda: LatestWeightAverage(spacing=1, coefficients="0.5,0.5"), "window holds 5"),
        (lambda: ExponentialMovingAverage(beta=1.0), "beta is 1.0"),
        (lambda: StochasticWeightAverage(start=-1), "start is -1"),
    ]:
        with pytest.raises(BequestError, match=said):
            wrong()
    averages.update(2, model)
    with pytest.raises(InputError, match="lawa"):
        list(averages.average("ema"))
    with pytest.raises(InputError, match="steps only go up"):
        averages.update(1, model)
    with pytest.raises(InputError, match="directly in the run's folder"):
        averages.save(tmp_path / "deep" / "checkpoint-2")
    misspelt = WeightAverages(tmp_path, lawa=LatestWeightAverage(spacing=1, exclude=["wte"]))
    with pytest.raises(InputError, match="'wte', which matches no tensor"):
        misspelt.update(1, model)


def test_numbers_wait_for_the_full_window(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(
        tmp_path, lawa=LatestWeightAverage(window=2, spacing=1, coefficients=[0.25, 0.75])
    )
    averages.update(1, model)
    assert averages.names == []
    averages.update(2, model)
    assert averages.names == ["lawa"]


def test_a_failed_write_is_told(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, lawa=LatestWeightAverage(window=2, spacing=1))
    averages.update(1, model)
    averages.finish()
    (tmp_path / "averaging" / "step-1.safetensors").unlink()
    (tmp_path / "averaging").rmdir()
    averages.update(2, model)
    with pytest.raises(StorageError, match=r"step-2\.safetensors"):
        averages.finish()


def test_export_is_a_whole_state_dict_in_the_models_dtype(tmp_path: Path) -> None:
    model = Net()
    averages = WeightAverages(tmp_path, ema=ExponentialMovingAverage(beta=0.5))
    for step in train(model, 1, 5):
        averages.update(step, model)
    export_average(averages, model, "ema", tmp_path / "ema.safetensors")
    with averages.applied(model, "ema"):
        expected = {k: v.numpy() for k, v in snapshot(model).items() if k != "head.weight"}
    same(load_file(tmp_path / "ema.safetensors"), expected)


def test_a_compiled_model_keeps_its_names(tmp_path: Path) -> None:
    model = Net()
    twin = copy.deepcopy(model)
    averages = WeightAverages(tmp_path / "a", ema=ExponentialMovingAverage())
    averages.update(1, torch.compile(model))
    plain = WeightAverages(tmp_path / "b", ema=ExponentialMovingAverage())
    plain.update(1, twin)
    same(values(averages, "ema"), values(plain, "ema"))


def test_the_state_names_what_was_kept(tmp_path: Path) -> None:
    run(tmp_path, 1, 5)
    state = json.loads((tmp_path / "checkpoint-5" / "averaging" / "state.json").read_text())
    assert [m["step"] for m in state["averages"]["lawa"]["members"]] == [2, 4]
    assert state["step"] == 5
