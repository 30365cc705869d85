"""The disk that a pre-training run takes: counted by hand, and asked for before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bequest.checkpoints import publish
from bequest.errors import StorageError
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import PretrainPlan, plan_pretrain
from training.tiny_pretraining import settings


def plan(folder: Path, **changes: Any) -> PretrainPlan:
    return plan_pretrain(PretrainConfig(**settings(folder, **changes)))


@pytest.mark.parametrize(
    ("training", "averages", "weights"),
    [
        # Twelve steps, a checkpoint of three times the weights every second one.
        ({}, {}, 3 * 3),
        ({"save_total_limit": 1}, {}, 2 * 3),
        ({"save_total_limit": None}, {}, 6 * 3),
        ({"save_steps": 12}, {}, 1 * 3),
        ({"save_steps": 0.25, "save_total_limit": None}, {}, 4 * 3),
        ({"save_strategy": "no"}, {}, 0),
        ({"save_strategy": "no"}, {"lawa": {"window": 4, "spacing": 2}}, 4),
        ({}, {"lawa": {"window": 4, "spacing": 2}, "ema": {"beta": 0.5}}, 3 * 7 + 4 + 1),
    ],
)
def test_the_disk_of_a_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
    averages: dict[str, Any],
    weights: int,
) -> None:
    made = plan(tmp_path, training={"max_steps": 12, **training}, averages=averages)
    size = 4 * made.num_parameters
    need = made.disk()
    assert (need.run, need.model) == (weights * size, size)
    # One byte less, and it does not begin.
    room = publish._SPARE_BYTES + max(weights, 1) * size - 1
    monkeypatch.setattr(
        publish.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, room)
    )
    with pytest.raises(StorageError, match="free space"):
        run_pretrain(made)
    assert not list(tmp_path.rglob("checkpoint-*"))
