"""Learning-rate schedules by name, as arguments of transformers' own schedulers."""

from __future__ import annotations

import math
from typing import Any

from bequest.errors import InputError

SCHEDULES = ("cosine", "wsd", "constant", "trainer")
RESERVED = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio")
"""Fields of TrainingArguments that a schedule sets, unless it is `trainer`."""


def check_schedule(schedule: str, warmup: float, decay: float, floor: float) -> None:
    """Refuse a schedule that cannot be.

    Raises:
        InputError: no such schedule, or a share or number of steps below 0.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule is {schedule!r}; choose one of {', '.join(SCHEDULES)}")
    for name, value in (("warmup", warmup), ("decay", decay)):
        if not value >= 0 or (value >= 1 and value != int(value)):
            raise InputError(
                f"{name} is {value}; give a share of the steps below 1, or a whole number of steps"
            )
    if not 0 <= floor <= 1:
        raise InputError(f"floor is {floor}; give a share of the learning rate, from 0 to 1")


def scheduler_arguments(
    schedule: str, *, steps: int, warmup: float, decay: float, floor: float
) -> dict[str, Any]:
    """Return what TrainingArguments need for a schedule.

    - `cosine`: up linearly, then along half a cosine to `floor` times the rate at the last step.
    - `wsd` (warm-up, stable, decay): up, constant, and linearly down to `floor` in the last steps.
    - `constant`: up, then constant.
    - `trainer`: nothing; the user's own `lr_scheduler_type` counts.

    Args:
        schedule: of `SCHEDULES`.
        steps: of the whole run.
        warmup: steps, or their share below 1.
        decay: likewise, of the decay phase of `wsd`.
        floor: the lowest rate as a share of the highest.

    Raises:
        InputError: warm-up and decay take more steps than there are.
    """
    if schedule == "trainer":
        return {}
    rising, falling = _steps(warmup, steps), _steps(decay, steps)
    if rising + (falling if schedule == "wsd" else 0) > steps:
        both = f"warmup ({rising})" + (f" and decay ({falling})" if schedule == "wsd" else "")
        raise InputError(f"{both} take more steps than the run has ({steps}); give less")
    chosen: dict[str, Any] = {"warmup_steps": rising}
    if schedule == "cosine":
        chosen |= {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": floor},
        }
    elif schedule == "wsd":
        shape = {"num_decay_steps": falling, "decay_type": "linear", "min_lr_ratio": floor}
        chosen |= {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": shape}
    else:
        chosen["lr_scheduler_type"] = "constant_with_warmup"
    return chosen


def _steps(share: float, steps: int) -> int:
    return math.ceil(share * steps) if share < 1 else int(share)
