"""The live average is byte-equal to what `bequest average` makes of the same members, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bequest
from averaging import runs
from bequest.averaging.export import export_average
from bequest.averaging.live import WeightAverages
from bequest.averaging.recipes import LatestWeightAverage


@pytest.mark.parametrize("coefficients", ["uniform", "decay:1-sqrt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_and_afterwards(coefficients: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = runs.model(0, dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    recipe = LatestWeightAverage(
        window=3, spacing=2, coefficients=coefficients, blend=0.9, exclude=[r"layers\.0\."]
    )
    averages = WeightAverages(tmp_path / "run", lawa=recipe)
    for step in range(1, 9):
        ids = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        averages.update(step, model, optimizer)
        if step % 2 == 0:
            model.save_pretrained(tmp_path / "saved" / f"checkpoint-{step}")
    averages.finish()
    export_average(averages, model, "lawa", tmp_path / "live.safetensors")
    live = load_file(tmp_path / "live.safetensors")

    options = {"window": 3, "spacing": 2, "coefficients": coefficients, "blend": 0.9}
    options["exclude"] = [r"layers\.0\."]
    name = str(dtype).removeprefix("torch.")
    bequest.average_checkpoints(
        tmp_path / "run" / "averaging", tmp_path / "of-members", dtype=name, **options
    )
    bequest.average_checkpoints(tmp_path / "saved", tmp_path / "of-checkpoints", **options)
    for folder in ("of-members", "of-checkpoints"):
        offline = runs.read(tmp_path / folder)
        assert offline.keys() == live.keys()
        for key, tensor in live.items():
            assert tensor.dtype == dtype
            same = torch.equal(tensor.view(torch.uint8), offline[key].view(torch.uint8))
            assert same, (folder, key)
