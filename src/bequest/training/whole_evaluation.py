"""Evaluations read all that is held out, whatever the training's batches leave out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainingArguments


@contextmanager
def whole_evaluation(args: TrainingArguments) -> Iterator[None]:
    """Let a trainer's data loaders, if they are made inside, drop no last batch.

    Args:
        args: the trainer's; Trainer takes `dataloader_drop_last` for evaluations, too.
    """
    asked, args.dataloader_drop_last = args.dataloader_drop_last, False
    try:
        yield
    finally:
        args.dataloader_drop_last = asked
