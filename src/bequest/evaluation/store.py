"""Item scores on disk: one file for each model and task, so that nothing is computed twice.

A file is JSON lines: a head that says what it is, then one line an item, `{"id", "value", "size"}`.
It is written beside its place and renamed, so it is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from bequest.errors import StorageError
from bequest.evaluation.items import ItemScores
from bequest.evaluation.models import Candidate

_SCHEMA_VERSION = 1
_SHOWN = 12


class ItemStore:
    """The item files of one evaluation.

    Args:
        folder: where they lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, candidate: Candidate, task: str, fingerprint: str) -> Path:
        """Return the file of one model's results on one task.

        Args:
            candidate: the model; what it is counts, not where it lies or what it is called.
            task: the task's name, for people.
            fingerprint: of the task's items and settings.
        """
        model = f"{candidate.identity[:_SHOWN]}-{candidate.dtype}"
        readable = re.sub(r"[^\w.-]+", "_", task).strip("._")[:60]
        return self._folder / model / f"{readable}-{fingerprint[:_SHOWN]}.jsonl"

    def read(self, candidate: Candidate, task: str, fingerprint: str) -> ItemScores | None:
        """Return results that an earlier run left; None if there are none, or none that are whole."""
        try:
            lines = self.path(candidate, task, fingerprint).read_text(encoding="utf-8").splitlines()
            head, *rows = [json.loads(line) for line in lines]
            if (
                head["schema_version"] != _SCHEMA_VERSION
                or head["identity"] != candidate.identity
                or head["fingerprint"] != fingerprint
                or head["num_items"] != len(rows)
            ):
                return None
            return ItemScores(
                task=head["task"],
                metric=head["metric"],
                ids=tuple(row["id"] for row in rows),
                values=np.array([row["value"] for row in rows], dtype=np.float64),
                sizes=np.array([row["size"] for row in rows], dtype=np.float64),
                higher_is_better=head["higher_is_better"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            # Whatever is not there, or not as it was written, is computed anew.
            return None

    def seconds(self, candidate: Candidate, task: str, fingerprint: str) -> float | None:
        """Return how long some results took to compute; None if that is not known."""
        try:
            with self.path(candidate, task, fingerprint).open(encoding="utf-8") as file:
                return float(json.loads(file.readline())["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(
        self, candidate: Candidate, scores: ItemScores, fingerprint: str, *, seconds: float
    ) -> Path:
        """Keep one model's results on one task, and return the file.

        Args:
            candidate: the model.
            scores: its items.
            fingerprint: of the task's items and settings.
            seconds: that it took; of what an interrupt broke off, only the last part.

        Raises:
            StorageError: the disk is full or failed.
        """
        head: dict[str, Any] = {
            "schema_version": _SCHEMA_VERSION,
            "task": scores.task,
            "metric": scores.metric,
            "higher_is_better": scores.higher_is_better,
            "model": candidate.name,
            "identity": candidate.identity,
            "fingerprint": fingerprint,
            "num_items": len(scores.ids),
            "seconds": round(seconds, 3),
        }
        columns = zip(scores.ids, scores.values.tolist(), scores.sizes.tolist(), strict=True)
        rows = [{"id": id_, "value": value, "size": size} for id_, value, size in columns]
        path = self.path(candidate, scores.task, fingerprint)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in [head, *rows])
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        return path
