"""WeightedTrainer: transformers' Trainer with a weight on every sample of its training loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset
from transformers import Trainer

from bequest.errors import InputError
from bequest.weighting.given import checked_weights

WEIGHT = "weight"
"""The column of a data set that holds a weight for each sample."""

SampleLosses = Callable[[Any, Mapping[str, Any]], Tensor]
"""Called with a model's outputs and the batch; returns the loss of each sample, shape (B,)."""


def classification_losses(outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return each sample's cross-entropy in nats, shape (B,), from `logits` (B, C) and `labels`.

    Raises:
        InputError: the outputs or the labels are not those of a classifier with one label a sample.
    """
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    labels = inputs.get("labels")
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or logits.ndim != 2:
        raise InputError(
            "sample_losses must be given: the default is for logits (batch, classes) and one "
            "integer label a sample"
        )
    return functional.cross_entropy(logits, labels, reduction="none")


class WeightedTrainer(Trainer):
    """Trainer whose training loss is `sum_i w_i l_i / sum_i 1`, i over the samples of a step.

    For every model with one loss a sample. The update does not depend on micro-batch, accumulation
    or number of processes; with all weights 1 it is the plain Trainer's, bit for bit. The logged
    training loss is the weighted one, `eval_loss` is never weighted.

    Weights come from a column or an array, or from a frozen reference model that sees the same
    batch, augmented as it is: `w = exp(-its loss / temperature)`.

    Source: FLOW (arXiv 2502.02797) and its released code for images.
    """

    _signature_columns: list[str] | None

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        *arguments: Any,
        weights: str | ArrayLike | None = None,
        reference_model: nn.Module | None = None,
        temperature: float | None = None,
        sample_losses: SampleLosses = classification_losses,
        normalizer: str = "samples",
        **options: Any,
    ) -> None:
        """Attach the weights, or freeze the model that they come from.

        Args:
            model: As Trainer takes it.
            args: As Trainer takes them.
            data_collator: As Trainer takes it; one that makes its own batches must pass the column
                `weight` on, as a tensor (B,).
            train_dataset: Map-style: rows are mappings.
            *arguments: Trainer's further arguments by place.
            weights: The name of a column of `train_dataset`, or one number a row; None takes the
                column `weight` if there is one.
            reference_model: Weighs each batch; it is set to evaluation and its parameters to
                require no gradient. It gets the batch without labels.
            temperature: In nats, above 0; with `reference_model`.
            sample_losses: Gives the loss of each sample, from the outputs of a model and the batch;
                the default is cross-entropy of classifiers.
            normalizer: `samples` divides by the number of samples, as the authors do; `weights` by
                the sum of their weights, which must be known before the forward pass.
            **options: Trainer's other arguments.

        Raises:
            InputError: Weights are missing, not weights, given twice, or an argument of Trainer
                would bypass them.
        """
        self.reference_model = reference_model
        self.temperature = _checked_temperature(reference_model, temperature)
        self.sample_losses = sample_losses
        if normalizer not in ("samples", "weights"):
            raise InputError(f"normalizer is {normalizer!r}; it is 'samples' or 'weights'")
        if normalizer == "weights" and reference_model is not None:
            raise InputError(
                "normalizer 'weights' needs weights known before the forward pass, not those of a "
                "reference_model; take 'samples'"
            )
        self.normalizer = normalizer
        if options.get("compute_loss_func") is not None:
            raise InputError("compute_loss_func would bypass the weights; pass sample_losses")
        if getattr(args, "label_smoothing_factor", 0):
            raise InputError(
                "label_smoothing_factor is set, which would bypass the weights; set it to 0 and "
                "smooth in sample_losses"
            )
        if train_dataset is not None:
            train_dataset = _weighted_rows(train_dataset, weights, reference_model)
        elif weights is not None:
            raise InputError("weights is given, but no train_dataset to weigh")
        super().__init__(model, args, data_collator, train_dataset, *arguments, **options)
        # `compute_loss` divides by the samples of the whole step, whatever the model's forward takes.
        self.model_accepts_loss_kwargs = True
        if reference_model is not None:
            reference_model.requires_grad_(False).eval().to(self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        if WEIGHT not in columns:
            self._signature_columns = [*columns, WEIGHT]

    def _get_num_items_in_batch(
        self, batch_samples: Sequence[Mapping[str, Any]], device: torch.device
    ) -> Tensor | None:
        """Add up what the loss of one step is divided by, over its micro-batches and processes."""
        if not batch_samples:
            return None
        total = torch.stack([self._items(batch).to(device) for batch in batch_samples]).sum()
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def _items(self, batch: Mapping[str, Any]) -> Tensor:
        if self.normalizer == "weights" and WEIGHT in batch:
            total: Tensor = batch[WEIGHT].sum()
            return total
        return torch.tensor(_batch_size(batch), dtype=torch.float32)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the weighted loss while training and Trainer's own in evaluation."""
        counted = _batch_size(inputs) if self.model.training else 0
        weights = inputs.pop(WEIGHT, None)
        if not self.model.training:
            # Without a count Trainer divides by nothing that not every model would accept.
            return super().compute_loss(model, inputs, return_outputs, None)
        if self.reference_model is not None:
            weights = self._reference_weights(inputs)
        elif weights is None:
            raise InputError(
                f"a training batch has no {WEIGHT!r}; the data_collator must pass it on"
            )
        outputs = model(**inputs)
        losses = self.sample_losses(outputs, inputs)
        if losses.shape != weights.shape:
            raise InputError(
                f"sample_losses gave the shape {tuple(losses.shape)} for {len(weights)} samples; "
                "give one loss a sample"
            )
        if len(losses) != counted:
            raise InputError(
                f"sample_losses gave {len(losses)} losses for a batch that counts as {counted} samples; "
                "let the data_collator make labels with one row a sample"
            )
        items = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights.to(losses.dtype)).sum() / items
        if num_items_in_batch is not None:
            # The gradients of all processes are averaged, but `items` counts the samples of all.
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _reference_weights(self, inputs: Mapping[str, Any]) -> Tensor:
        unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
        reference: Any = self.reference_model
        with torch.no_grad():
            losses = self.sample_losses(reference(**unlabelled), inputs).float()
        weights = torch.exp(-losses / self.temperature)
        return torch.where(torch.isfinite(losses), weights, 0)


class _WeightedRows(Dataset[dict[str, Any]]):
    """A map-style data set whose rows have a weight."""

    def __init__(self, rows: Any, weights: np.ndarray[Any, Any]) -> None:
        self._rows = rows
        self._weights = weights

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._rows[index], WEIGHT: float(self._weights[index])}


def _weighted_rows(dataset: Any, weights: Any, reference_model: nn.Module | None) -> Any:
    """Return the data set with a column of weights, or as it is if a reference weighs it."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise InputError(
            f"train_dataset is a {type(dataset).__name__}; give a map-style data set: a step's "
            "samples must be countable"
        )
    columns = getattr(dataset, "column_names", None) or []
    if reference_model is not None:
        if weights is not None:
            raise InputError("weights and reference_model are both given; choose one")
        return dataset
    if weights is None or isinstance(weights, str):
        name = weights or WEIGHT
        if name in columns:
            own = checked_weights(f"train_dataset[{name!r}]", dataset[name])
        elif not columns and len(dataset) and name in dataset[0]:
            own = checked_weights(name, [dataset[index][name] for index in range(len(dataset))])
        else:
            raise InputError(
                f"train_dataset has no column {name!r}; give weights, one number a row, or a "
                "reference_model"
            )
    else:
        own = checked_weights("weights", weights)
    if len(own) != len(dataset):
        raise InputError(
            f"weights has {len(own)} numbers and train_dataset {len(dataset)} rows; give one a row"
        )
    if columns:
        kept = dataset.remove_columns(WEIGHT) if WEIGHT in columns else dataset
        return kept.add_column(WEIGHT, own)
    return _WeightedRows(dataset, own)


def _checked_temperature(reference_model: nn.Module | None, temperature: float | None) -> float:
    if reference_model is None:
        if temperature is not None:
            raise InputError(
                f"temperature is {temperature}, but there is no reference_model; leave it out"
            )
        return math.nan
    if temperature is None or not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(
            f"temperature is {temperature}; reference_model needs a finite number above 0, in "
            "nats, such as the median of its losses on the training data"
        )
    return float(temperature)


def _batch_size(batch: Mapping[str, Any]) -> int:
    """Count the samples: by their weights or labels, for other tensors may hold nodes or pixels."""
    named = [batch[name] for name in (WEIGHT, "labels") if batch.get(name) is not None]
    for value in (*named, *batch.values()):
        if torch.is_tensor(value) and value.ndim:
            return len(value)
    raise InputError("a training batch holds no tensor, so its samples cannot be counted")
