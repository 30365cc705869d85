"""Answers of an unfinished task on disk, one JSON line each, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class KeptAnswers:
    """What was answered so far, by any process; a line that is not whole does not count.

    Args:
        folder: where the files of all processes lie; None keeps nothing on disk.
        rank: number of this process, which writes a file of its own.
        kind: what is kept, as a part of the files' names.
    """

    def __init__(self, folder: Path | None, rank: int, kind: str) -> None:
        self.found: dict[Any, Any] = {}
        self._file = None if folder is None else folder / f"rank-{rank}.{kind}.jsonl"
        for file in () if folder is None else sorted(folder.glob(f"rank-*.{kind}.jsonl")):
            for line in file.read_text(encoding="utf-8").split("\n"):
                try:
                    key, answer = json.loads(line)
                except (ValueError, TypeError):
                    continue
                self.found[key] = answer

    def keep(self, answers: Iterable[tuple[Any, Any]]) -> None:
        """Keep some answers by what they answer: a number or a text.

        Raises:
            OSError: writing failed.
        """
        new = list(answers)
        self.found.update(new)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                # A newline first: what a killed run left half-written stays a line of its own.
                file.write("".join(f"\n{json.dumps(pair)}" for pair in new) + "\n")
