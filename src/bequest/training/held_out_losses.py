"""Losses of held-out tokens at a trainer's evaluations: one by one, and as means with their errors."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import EvalPrediction

from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError
from bequest.training.token_blocks import IGNORED, HeldOutBlocks

FILE_NAME = "held_out_losses.npz"
"""What a finished model's folder keeps of its last measurement."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutLosses:
    """The losses of one model on all held-out tokens; those of two models pair up."""

    token_losses: NDArray[np.float32]
    """(T,) loss of each token in nats, document after document."""
    tokens_per_document: NDArray[np.int64]
    """(D,) how many of them each document has."""
    bytes_per_document: NDArray[np.int64]
    """(D,) its length in UTF-8."""

    @property
    def nats_per_document(self) -> NDArray[np.float64]:
        """(D,) sum of each document's losses."""
        document = np.repeat(np.arange(len(self.tokens_per_document)), self.tokens_per_document)
        sums = np.zeros(len(self.tokens_per_document))
        np.add.at(sums, document, self.token_losses)
        return sums

    @property
    def loss(self) -> float:
        """Nats a token."""
        return float(self.nats_per_document.sum() / self.tokens_per_document.sum())

    @property
    def loss_error(self) -> float | None:
        """Standard error of `loss`, the documents being a sample; None for one document."""
        return _error_of_ratio(self.nats_per_document, self.tokens_per_document)

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of the documents."""
        nats = self.nats_per_document.sum()
        return float(nats / math.log(2) / self.bytes_per_document.sum())

    @property
    def bits_per_byte_error(self) -> float | None:
        """Standard error of `bits_per_byte`, likewise."""
        return _error_of_ratio(self.nats_per_document / math.log(2), self.bytes_per_document)

    def metrics(self) -> dict[str, float]:
        """Return these numbers by the names that a trainer logs them under, without `eval_`."""
        found = {
            "loss": self.loss,
            "loss_error": self.loss_error,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_error": self.bits_per_byte_error,
        }
        return {name: value for name, value in found.items() if value is not None}


class HeldOutMeter:
    """Measures at a trainer's evaluations: its methods are arguments of Trainer.

    Args:
        blocks: the trainer's evaluation set.
        keep: how many measurements to keep; one evaluation gives one for each model it looks at.
    """

    def __init__(self, blocks: HeldOutBlocks, *, keep: int) -> None:
        self._blocks = blocks
        self.measured: deque[HeldOutLosses] = deque(maxlen=keep)
        """The latest measurements, oldest first."""

    def token_losses(self, logits: Any, labels: Tensor) -> Tensor:
        """For `preprocess_logits_for_metrics`: (B, T, V) logits to (B, T-1) float32 losses."""
        scores = logits[0] if isinstance(logits, tuple | list) else logits
        # One sequence at a time, because float32 logits are large.
        rows = [
            nn.functional.cross_entropy(
                row[:-1].float(), wanted[1:], reduction="none", ignore_index=IGNORED
            )
            for row, wanted in zip(scores, labels, strict=True)
        ]
        return torch.stack(rows)

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """For `compute_metrics`: the means; `loss` replaces the trainer's mean over batches."""
        losses = self._blocks.in_order(np.asarray(prediction.predictions, np.float32))
        measured = HeldOutLosses(
            token_losses=losses,
            tokens_per_document=self._blocks.tokens_per_document,
            bytes_per_document=self._blocks.bytes_per_document,
        )
        self.measured.append(measured)
        return measured.metrics()


def save_losses(folder: Path, losses: dict[str, HeldOutLosses]) -> None:
    """Write the losses of several models on the same tokens into a folder.

    Raises:
        StorageError: the disk is full or failed.
    """
    one = next(iter(losses.values()))
    arrays: dict[str, Any] = {
        "tokens_per_document": one.tokens_per_document,
        "bytes_per_document": one.bytes_per_document,
    }
    arrays |= {f"losses:{name}": measured.token_losses for name, measured in losses.items()}
    with whole_file(folder / FILE_NAME) as file, file.open("wb") as stream:
        np.savez(stream, **arrays)


def read_losses(folder: str | Path) -> dict[str, HeldOutLosses]:
    """Read what `save_losses` wrote, by the models' names.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    file = Path(folder).expanduser() / FILE_NAME
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {
                name.removeprefix("losses:"): HeldOutLosses(
                    token_losses=arrays[name],
                    tokens_per_document=arrays["tokens_per_document"],
                    bytes_per_document=arrays["bytes_per_document"],
                )
                for name in arrays.files
                if name.startswith("losses:")
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} cannot be read ({error}); run pretrain again") from error


def _error_of_ratio(sums: NDArray[np.float64], sizes: NDArray[np.int64]) -> float | None:
    """The standard error of `sum(sums) / sum(sizes)` to first order (Cochran, eq. 6.13)."""
    count = len(sizes)
    if count < 2:
        return None
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(math.sqrt(count / (count - 1) * (residuals @ residuals)) / sizes.sum())
