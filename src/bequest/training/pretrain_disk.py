"""How much disk a pre-training run takes: what its plan tells, and what must be free to begin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainingArguments

from bequest.averaging.recipes import Recipe
from bequest.checkpoints.publish import require_space
from bequest.training.run_folder import written
from bequest.training.run_length import RunLength


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Bytes of what a run writes."""

    checkpoint: int
    """One checkpoint: the weights, two moments, and for each average its float32 copy or more; 0
    where none is saved."""
    run: int
    """The run's folder at most: the checkpoints that are kept, one more while it is written, and
    the members of averages."""
    model: int
    """The finished model."""


def disk_need(
    arguments: TrainingArguments,
    recipes: Mapping[str, Recipe],
    length: RunLength,
    num_parameters: int,
) -> DiskNeed:
    """Work out what a run writes.

    Args:
        arguments: the trainer's.
        recipes: the averages.
        length: the run's.
        num_parameters: the model's.
    """
    weights = 4 * num_parameters
    checkpoint = weights * (3 + 2 * len(recipes))
    kept, limit = _saves(arguments, length), arguments.save_total_limit
    kept = kept if limit is None else min(kept, limit + 1)
    members = sum(getattr(recipe, "window", 1) for recipe in recipes.values())
    return DiskNeed(
        checkpoint=checkpoint if kept else 0,
        run=kept * checkpoint + members * weights,
        model=weights,
    )


def require_disk(need: DiskNeed, run: Path, target: Path, *, done: bool) -> None:
    """Refuse a run that its disk cannot hold.

    What the run has written already is not asked for again, but for room for one more checkpoint.

    Args:
        need: from `disk_need`.
        run: the run's folder.
        target: the finished model's.
        done: whether no step is left.

    Raises:
        StorageError: there is less free space than is needed.
    """
    if not done:
        require_space(run, max(need.checkpoint, need.run - written(run)))
    require_space(target, need.model)


def _saves(arguments: TrainingArguments, length: RunLength) -> int:
    steps, often = length.steps, float(arguments.save_steps)
    if arguments.save_strategy == "no":
        return 0
    if arguments.save_strategy == "epoch":
        return math.ceil(steps / length.steps_per_epoch)
    return math.ceil(steps / often if often >= 1 else 1 / often)
