"""Losses that were measured already, kept beside the target until the whole run is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bequest.averaging.plan import AveragePlan
from bequest.checkpoints.model_identity import ContentHashes

Evaluate = Callable[[Path], float]
"""Gives a model folder's loss on held-out text, in bits per byte."""


class MeasuredLosses:
    """Measures averages, and remembers what each gave, so that a broken-off run goes on.

    A loss is filed under what it depends on: all bytes of its members' weights and of the tokenizer
    beside them, the mixture, the result's dtype and the text. Nothing stale is ever found, whatever
    changed in between.

    Args:
        target: the folder that the run will write; the losses lie beside it, hidden.
        evaluate: gives a folder's loss.
        evaluation: what names the text, such as a hash of it; None remembers nothing.
    """

    def __init__(self, target: Path, evaluate: Evaluate, evaluation: str | None) -> None:
        self._evaluate = evaluate
        self._evaluation = evaluation
        self._file = target.with_name(f".{target.name}.losses.jsonl")
        self._contents_file = target.with_name(f".{target.name}.contents.json")
        self._contents = ContentHashes(None if evaluation is None else self._contents_file)
        # Of files that are still young the hashes are not remembered by themselves.
        self._identities: dict[tuple[Path, ...], str] = {}
        self._known = {} if evaluation is None else _read(self._file)

    def known(self, plan: AveragePlan) -> float | None:
        """Return the loss of what a plan makes, if it was measured before."""
        return self._known.get(self._key(plan)) if self._evaluation is not None else None

    def measure(self, plan: AveragePlan, folder: Path) -> float:
        """Return the loss of what a plan made in a folder, measured now or before.

        Raises:
            OSError: the loss cannot be written down.
        """
        if self._evaluation is None:
            return self._evaluate(folder)
        loss = self.known(plan)
        if loss is None:
            loss = self._evaluate(folder)
            key = self._key(plan)
            self._known[key] = loss
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                # A line of its own, also after one that a dying process left unfinished.
                file.write(f"\n{json.dumps({'key': key, 'loss': loss})}\n")
                file.flush()
                os.fsync(file.fileno())
            self._contents.keep()
        return loss

    def forget(self) -> None:
        """Remove the files: the run that they were for is done."""
        if self._evaluation is not None:
            self._file.unlink(missing_ok=True)
            self._contents_file.unlink(missing_ok=True)

    def _key(self, plan: AveragePlan) -> str:
        parts: list[Any] = [
            self._evaluation,
            [self._identity(member.weights.weight_files) for member in plan.members],
            self._identity(tuple(_read_beside(plan))),
            str(plan.mixture.coefficients),
            plan.mixture.blend,
            list(plan.mixture.exclude),
            plan.manner.dtype,
            dict(plan.config),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _identity(self, files: tuple[Path, ...]) -> str:
        if files not in self._identities:
            self._identities[files] = self._contents.of_files(files)
        return self._identities[files]


def _read_beside(plan: AveragePlan) -> list[Path]:
    """List the files that come along and say how text is read: the tokenizer's, above all."""
    return [] if plan.home is None else [plan.home.folder / name for name in plan.companions]


def _read(file: Path) -> dict[str, float]:
    known: dict[str, float] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in lines:
        try:
            record = json.loads(line)
            known[str(record["key"])] = float(record["loss"])
        except (ValueError, KeyError, TypeError):
            continue  # the line at which a process died
    return known
