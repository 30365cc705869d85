from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from bequest.errors import InputError
from bequest.training.learning_rate import check_schedule, scheduler_arguments

STEPS = 100


def rates(schedule: str, **changes: float) -> list[float]:
    """The learning rate of each step as a share of the highest, from transformers' scheduler."""
    options = {"warmup": 10.0, "decay": 0.2, "floor": 0.1} | changes
    chosen: dict[str, Any] = scheduler_arguments(schedule, steps=STEPS, **options)
    args = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", **chosen)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(STEPS),
        num_training_steps=STEPS,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    found = []
    for _ in range(STEPS + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_ends_at_its_floor() -> None:
    found = rates("cosine")
    wanted = [s / 10 for s in range(10)]
    wanted += [0.1 + 0.9 * (1 + math.cos(math.pi * (s - 10) / 90)) / 2 for s in range(10, 101)]
    assert found == pytest.approx(wanted)


def test_warm_up_stable_decay() -> None:
    found = rates("wsd")
    assert found[10:80] == pytest.approx([1.0] * 70)
    wanted = [1 - 0.9 * (s - 80) / 20 for s in range(80, 101)]
    assert found[80:] == pytest.approx(wanted)
    assert max(found[:10]) < 1 and found[:10] == sorted(found[:10])


def test_constant_and_shares() -> None:
    assert rates("constant", warmup=0.1) == pytest.approx([min(1, s / 10) for s in range(101)])
    assert scheduler_arguments("trainer", steps=5, warmup=9, decay=9, floor=0) == {}


@pytest.mark.parametrize(
    ("schedule", "warmup", "decay", "floor", "words"),
    [
        ("linear", 0, 0, 0, "schedule is 'linear'"),
        ("wsd", -1, 0, 0, "warmup is -1"),
        ("wsd", 0, 1.5, 0, "decay is 1.5"),
        ("wsd", 0, math.nan, 0, "decay is nan"),
        ("wsd", 0, 0, 2, "floor is 2"),
    ],
)
def test_refusals(schedule: str, warmup: float, decay: float, floor: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_schedule(schedule, warmup, decay, floor)


def test_a_schedule_must_fit() -> None:
    with pytest.raises(InputError, match=r"warmup \(60\) and decay \(50\) take more steps"):
        scheduler_arguments("wsd", steps=100, warmup=60, decay=0.5, floor=0)
