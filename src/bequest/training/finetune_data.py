"""The samples of a fine-tuning run: read, split for evaluation, tokenized as TRL would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from bequest.errors import InputError
from bequest.training.finetune_config import DataConfig, has_evaluation
from bequest.training.flow_inputs import WEIGHT, check_column
from bequest.training.flow_trainer import TOKEN_WEIGHTS
from bequest.training.response_losses import is_response
from bequest.training.row_weights import Weighing
from bequest.training.samples import progress_bars, read_samples
from bequest.training.sft_data import TokenizedSamples


def read_data(config: DataConfig, train: Any = None) -> tuple[Dataset, Dataset | None]:
    """Read what is trained on and, if there is any, what evaluations read.

    Args:
        config: what was asked.
        train: a data set in memory, instead of `config.train`.

    Raises:
        InputError: one of them cannot be read, is streamed or is empty.
    """
    samples = read_samples(
        config.train if train is None else train,
        split=config.split,
        name=config.name,
        field="data.train",
        name_field="data.name",
        split_field="data.split",
    )
    if config.eval_fraction:
        return split_by_hash(samples, config.eval_fraction)
    if not has_evaluation(config):
        return samples, None
    same = config.eval is None or config.eval == config.train
    held_out = read_samples(
        config.eval or config.train,
        split=config.eval_split or config.split,
        name=config.name if same and config.eval_name is None else config.eval_name,
        field="data.train" if config.eval is None else "data.eval",
        name_field="data.eval_name",
        split_field="data.eval_split",
    )
    return samples, held_out


def check_columns(samples: Dataset, weighing: Weighing) -> None:
    """Refuse columns of weights that FlowTrainer would refuse; it will not see the columns itself.

    Raises:
        InputError: a column holds no weights, or contradicts what else was said.
    """
    if TOKEN_WEIGHTS in samples.column_names and weighing.needs_scores:
        raise InputError(
            f"data.train has a column {TOKEN_WEIGHTS!r}, which is for other trainers; name the "
            "score file it came from as method.scores, or remove the column"
        )
    if WEIGHT in samples.column_names:
        check_column(samples, weighing)


def split_by_hash(samples: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Hold samples out, chosen by what they hold: equal ones fall on one side, in any order.

    A sample is held out where the first 8 bytes of the BLAKE2b digest of its columns, as JSON with
    sorted keys, are below `fraction` of all that there are.

    Args:
        samples: N samples.
        fraction: about how many of them, above 0 and below 1.

    Returns:
        Those that stay, and those that are held out.

    Raises:
        InputError: one side is empty.
    """
    limit = int(fraction * 2**64)
    with progress_bars(False):
        held = np.fromiter(
            (_number(row) < limit for row in samples), dtype=bool, count=len(samples)
        )
    if held.all() or not held.any():
        side = "every one" if held.all() else "none"
        raise InputError(
            f"data.eval_fraction is {fraction}, by which {side} of the {len(samples)} samples is "
            "held out; give another share, or data.eval"
        )
    return samples.select(np.flatnonzero(~held)), samples.select(np.flatnonzero(held))


def tokenized_dataset(tokenized: TokenizedSamples, weights: Iterable[float] | None) -> Dataset:
    """Make the data set that a trainer takes, without the samples that have nothing to learn.

    Args:
        tokenized: N samples.
        weights: N weights for a column of that name, or None.
    """
    kept = [row for row, own in enumerate(tokenized.labels) if is_response(own).any()]
    columns: dict[str, Any] = {
        "input_ids": [tokenized.input_ids[row] for row in kept],
        "labels": [tokenized.labels[row] for row in kept],
    }
    if weights is not None:
        own_weights = list(weights)
        columns[WEIGHT] = [own_weights[row] for row in kept]
    return Dataset.from_dict(columns)


def _number(row: dict[str, Any]) -> int:
    text = json.dumps(row, sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
