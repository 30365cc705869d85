"""The estimate of an image run, with a clock that stands: sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bequest.training import vision_cost
from bequest.training.method import MethodConfig
from bequest.training.vision_config import TASK, ImageConfig, ImageData
from bequest.training.vision_plan import plan_images
from tests.training.tiny_images import write_parquet

PARAMETERS = 768 * 10 + 10 + 10 * 4 + 4


@pytest.mark.parametrize(
    ("method", "seconds", "copies", "trained"),
    [
        # 24 training images read twice, 9 test images twice: 2 s each; then 3 epochs of 24.
        ({}, 2 * (2 * 24 + 2 * 9) + 3 * 72, 5, True),
        ({"scheme": "uniform"}, 2 * (2 * 24 + 2 * 9) + 2 * 72, 4, True),
        ({"linear_probe": True}, 2 * (24 + 2 * 9), 2, False),
    ],
)
def test_sums_by_hand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: dict[str, Any],
    seconds: float,
    copies: int,
    trained: bool,
) -> None:
    train = write_parquet(tmp_path / "train.parquet", 24, 0)
    test = write_parquet(tmp_path / "test.parquet", 9, 1)
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "use_cpu": True}
    config = ImageConfig(
        task=TASK,
        model="own",
        out=str(tmp_path / "out"),
        data=ImageData(train=str(train), eval=str(test)),
        method=MethodConfig(**method),
        training=settings if trained else {},
        size=16,
    )
    layers = (nn.Flatten(), nn.Linear(768, 10), nn.ReLU(), nn.Linear(10, 4))
    plan = plan_images(config, network=nn.Sequential(*layers))
    monkeypatch.setattr(vision_cost, "_timed", lambda call: (1.0, call()))
    cost = vision_cost.estimate(plan)
    # Every call of the clock took a second for its four images.
    assert cost.seconds == pytest.approx(seconds / 4)
    assert cost.weights == copies * PARAMETERS * 4
    # Momentum beside each gradient; the pixels and what the first layer gives, for 16 images.
    assert cost.gradients == (PARAMETERS * 8 if trained else 0)
    assert cost.activations == (16 * (768 + 10) * 4 if trained else 0)
    assert cost.num_bytes == cost.weights + cost.gradients + cost.activations
