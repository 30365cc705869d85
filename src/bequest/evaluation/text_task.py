"""Bits per byte on texts that the user names, document by document."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import bits_per_byte
from bequest.evaluation.held_out import read_texts
from bequest.evaluation.items import ItemScores, numbered, require_finite
from bequest.evaluation.models import Candidate, LoadedModel


class TextTask:
    """Documents of one file; each is an item, its value its bits and its size its bytes.

    Args:
        path: as for `read_texts`.
        window_bytes: as for `bits_per_byte`.
        overlap_bytes: likewise.
        tokens_per_batch: likewise; it changes no result.
        limit: the first documents only.

    Raises:
        InputError: the file is at fault.
    """

    def __init__(
        self,
        path: str,
        *,
        window_bytes: int,
        overlap_bytes: int,
        tokens_per_batch: int,
        limit: int | None,
    ) -> None:
        self.name = Path(path).name
        self._texts = read_texts(path)[:limit]
        self._windows = {"window_bytes": window_bytes, "overlap_bytes": overlap_bytes}
        self._tokens_per_batch = tokens_per_batch
        if not 0 <= overlap_bytes < window_bytes:
            raise InputError(
                f"overlap_bytes is {overlap_bytes}; it must be at least 0 and below window_bytes "
                f"({window_bytes})"
            )
        digest = hashlib.sha256(repr(("bits per byte", self._windows)).encode())
        self._ids = numbered([hashlib.sha256(t.encode()).hexdigest()[:16] for t in self._texts])
        digest.update(" ".join(self._ids).encode())
        self.fingerprint = digest.hexdigest()

    @property
    def num_items(self) -> int:
        """Documents."""
        return len(self._texts)

    @property
    def bytes_read(self) -> int:
        """About how many bytes run through a model, repeated context included."""
        window, overlap = self._windows["window_bytes"], self._windows["overlap_bytes"]
        total = sum(len(text.encode()) for text in self._texts)
        return round(total * window / (window - overlap))

    def flops(self, candidate: Candidate) -> float:
        """About how many floating-point operations a model takes for all items."""
        return candidate.flops_on_text(self.bytes_read)

    def measure(self, model: LoadedModel, *, progress: bool, scratch: Path | None) -> ItemScores:
        """Score every document under a model; all processes of a run share the work.

        Args:
            model: the model.
            progress: show a bar.
            scratch: a folder for unfinished work, taken up by the next call.

        Raises:
            InputError: the model has too few positions, its tokenizer cannot spell a document, or
                its loss on one is not finite.
        """
        found = bits_per_byte(
            model.model,
            model.tokenizer,
            self._texts,
            **self._windows,
            tokens_per_batch=self._tokens_per_batch,
            progress=progress,
            spool=None if scratch is None else scratch / f"batches-of-{self._tokens_per_batch}",
        )
        is_finite = np.isfinite(found.nats_per_text)
        require_finite(is_finite, model=model.candidate.label, task=self.name)
        return ItemScores(
            task=self.name,
            metric="bits per byte",
            ids=tuple(self._ids),
            values=found.nats_per_text / math.log(2),
            sizes=found.bytes_per_text.astype(float),
            higher_is_better=False,
        )
