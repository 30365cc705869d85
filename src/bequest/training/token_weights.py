"""How the weights of tokens travel through TRL: beside the tokens, in a column of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List, Value
from numpy.typing import NDArray
from torch import Tensor, nn
from trl import SFTConfig, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bequest.errors import InputError
from bequest.training.response_losses import is_response

LOSS_WEIGHTS = "loss_weights"
"""The column that holds a weight for each token, 0 where nothing is predicted."""

Weights = Sequence[float | NDArray[np.float32]]
"""For each sample its weight, or the weights of its response tokens in order."""


def attach_weights(dataset: Dataset, weights: Weights) -> Dataset:
    """Give every token of a tokenized data set its weight, in the column `loss_weights`.

    Args:
        dataset: Has the columns `input_ids` and `labels`.
        weights: One entry a row.
    """

    def weights_of(labels: Sequence[Sequence[int]], rows: Sequence[int]) -> dict[str, Any]:
        found = []
        for own, row in zip(labels, rows, strict=True):
            response = is_response(np.asarray(own, dtype=np.int32))
            token_weights = np.zeros(len(own), dtype=np.float32)
            token_weights[response] = weights[row]
            found.append(token_weights)
        return {LOSS_WEIGHTS: found}

    return dataset.map(
        weights_of,
        with_indices=True,
        input_columns=["labels"],
        batched=True,
        features=type(dataset.features)({**dataset.features, LOSS_WEIGHTS: List(Value("float32"))}),
        desc="Weighting train dataset",
    )


def pack_with_weights(dataset: Dataset, args: SFTConfig) -> Dataset:
    """Shuffle and pack as SFTTrainer does, the weights along with the tokens they belong to.

    Args:
        dataset: Tokenized, with its weights attached.
        args: Those of the trainer.
    """
    if args.packing:
        dataset = dataset.select_columns(["input_ids", "labels", LOSS_WEIGHTS])
        if args.shuffle_dataset:
            dataset = dataset.shuffle(seed=args.seed)
        options = {"num_proc": args.dataset_num_proc, "desc": "Packing train dataset"}
        dataset = pack_dataset(dataset, args.max_length, args.packing_strategy, options)
    return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset


@dataclass(frozen=True)
class WeightCollator:
    """TRL's collator, followed by one that lays the weights out as it laid out the tokens."""

    tokens: DataCollatorForLanguageModeling
    """What makes the rest of the batch."""

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch; `loss_weights` is in it, float32 of the labels' shape, if in all rows."""
        batch: dict[str, Any] = self.tokens(examples)
        if all(LOSS_WEIGHTS in example for example in examples):
            rows = [torch.tensor(example[LOSS_WEIGHTS]) for example in examples]
            if self.tokens.padding_free:
                rows = [torch.cat(rows)]
            weights = torch.zeros(batch["labels"].shape, dtype=torch.float32)
            for row, values in enumerate(rows):
                weights[row, : len(values)] = values
            batch[LOSS_WEIGHTS] = weights
        return batch


class WeighedModel:
    """A model for the length of one call: its log-probabilities come out weighted.

    SFTTrainer's loss is linear in the `log_probs` of what the model returns, so the whole of its
    `compute_loss` serves as it is.
    """

    def __init__(self, model: nn.Module, weights: Tensor | None) -> None:
        """Weight by `weights`, batch x length; None: each token by its own probability (DFT)."""
        self._model = model
        self._weights = weights
        self.calls = 0

    def __call__(self, **inputs: Any) -> Any:
        """Run the model."""
        outputs = self._model(**inputs)
        log_probs = outputs.log_probs
        if self._weights is None:
            weights = log_probs.detach().exp()
        else:
            weights = self._weights[:, 1:].to(log_probs.device)
        if log_probs.shape != weights.shape:
            raise InputError(
                f"the model returned losses of shape {tuple(log_probs.shape)} for weights of shape "
                f"{tuple(weights.shape)}; train without virtual tokens or sharded sequences"
            )
        outputs.log_probs = log_probs * weights
        self.calls += 1
        return outputs
