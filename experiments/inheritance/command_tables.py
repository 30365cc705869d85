"""Tables that the commands themselves wrote: the diagnosis of a reference, and the rivals' run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.page import table
from experiments.inheritance.data import CELLS
from experiments.inheritance.run import diagnosis_of

RIVALS = CELLS / "rivals.json"
"""What `experiments.inheritance.rivals` keeps."""


def diagnosed(name: str, times: int = 1) -> list[str]:
    """What `bequest diagnose` says of a study's reference: one row a block."""
    longer = "" if times == 1 else f", {times} times the steps"
    head = f"`bequest diagnose --leave-one-out` on the reference{longer}:"
    return _written(diagnosis_of(name, times), "Blocks", head)


def rivals() -> list[str]:
    """What `bequest inheritune` says of its rounds and of the last one's rivals."""
    head = (
        "`bequest inheritune --config experiments/inheritance/rivals.yaml`, the same reference, text "
        "and settings, seed 0; gaps in nats a token with 95 % intervals over documents:"
    )
    return _written(RIVALS, "Rounds", head)


def _written(file: Path, title: str, head: str) -> list[str]:
    if not file.is_file():
        return []
    sections = json.loads(file.read_text())["sections"]
    (found,) = (section["data"] for section in sections if section["title"] == title)
    rows = [list(map(_shown, row)) for row in found["rows"]]
    return [head, "", *table(found["columns"], rows).splitlines()]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) >= 10 or not value else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
