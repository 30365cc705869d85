"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bequest.results import FILE_NAME, Section


def print_table(section: Section) -> None:
    """Print a table section with aligned columns and grouped digits."""
    rows = [section.data["columns"], *section.data["rows"]]
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        all(isinstance(row[c], int | float | None) for row in rows[1:]) for c in range(len(rows[0]))
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  " + "  ".join(parts).rstrip())


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def print_written(folder: str | Path) -> None:
    """Print the `results.json` that a command left in a folder."""
    print_json(json.loads((Path(folder).expanduser() / FILE_NAME).read_text(encoding="utf-8")))


def print_notes(notes: Sequence[str]) -> None:
    """Print sentences, one a line."""
    for note in notes:
        print(f"  {note}")


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
