"""Tables for the page: those of the results, and the numbers behind each picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bequest.reporting.numbers import MINUS, in_full, is_number, shown
from bequest.results import Section

_MOST_ROWS = 1000
_MOST_CELLS = 6000
_SHORT = 28
_MOST_HEADLINE_ROWS = 6
_DENSE = 10
_MOST_IN_HALF = 4


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell as the page sets it."""

    text: str
    """What stands in it."""
    full: str
    """A number's digits in full, where the text has fewer; else ""."""
    short: bool
    """Whether it stays on one line."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as the page sets it."""

    columns: tuple[str, ...]
    """Headings."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells."""
    numeric: tuple[bool, ...]
    """Whether a column holds numbers alone, which then stand flush right."""
    heads: bool
    """Whether the first cell of each row names the row."""
    left_out: int = 0
    """Rows that are not shown, because there are too many."""

    @property
    def dense(self) -> bool:
        """Whether it has so many columns that they stand closer."""
        return len(self.columns) >= _DENSE

    @property
    def broad(self) -> bool:
        """Whether half of the page is too narrow for it."""
        return len(self.columns) > _MOST_IN_HALF


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], most: int = _MOST_ROWS) -> Table:
    """Lay a table out.

    Args:
        columns: headings.
        rows: as many cells each.
        most: rows to show.
    """
    decimals = [_decimals([row[at] for row in rows[:most]]) for at in range(len(columns))]
    made = tuple(tuple(map(_cell, row, decimals)) for row in rows[:most])
    return Table(
        columns=tuple(columns),
        rows=made,
        numeric=tuple(
            any(is_number(row[at]) for row in rows)
            and all(row[at] is None or is_number(row[at]) for row in rows)
            for at in range(len(columns))
        ),
        heads=len(columns) > 1 and bool(rows) and all(isinstance(row[0], str) for row in rows),
        left_out=max(0, len(rows) - most),
    )


def table_of(section: Section) -> Table:
    """Lay out a table section."""
    return table(section.data["columns"], section.data["rows"])


def headline(sections: Sequence[Section]) -> Section | None:
    """Return the table that is marked as the headline, or else the first one if it is short."""
    tables = [section for section in sections if section.type == "table"]
    marked = [section for section in tables if section.data.get("headline")]
    if marked:
        return marked[0]
    return tables[0] if tables and len(tables[0].data["rows"]) <= _MOST_HEADLINE_ROWS else None


def numbers_of(section: Section) -> Table:
    """Lay out the numbers of a picture."""
    columns, rows = _BEHIND[section.type](section.data)
    return table(columns, rows, most=min(200, max(10, _MOST_CELLS // len(columns))))


def _decimals(values: Sequence[Any]) -> int | None:
    """Return how many decimals a column of fractions has, or None where each cell has its own.

    As many as the most exact of its cells has when written alone, but no more than one beyond
    what four significant digits of the largest are.
    """
    found = [value for value in values if value is not None]
    texts = [shown(value) for value in found if isinstance(value, float)]
    if not texts or len(texts) < len(found) or any("e" in text for text in texts):
        return None
    largest = max(abs(value) for value in found)
    if largest >= 10_000 or all(value == int(value) for value in found):
        return None
    most = 4 - math.floor(math.log10(largest))
    return max(0, min(most, max(len(text.partition(".")[2]) for text in texts)))


def _cell(value: Any, decimals: int | None) -> Cell:
    text = shown(value)
    if decimals is not None and value is not None:
        text = f"{value:,.{decimals}f}".replace("-", MINUS)
    full = in_full(value) if is_number(value) else ""
    written = text.replace(",", "").replace(MINUS, "-")
    same = written == full or (isinstance(value, float) and _as_float(written) == value)
    return Cell(text=text, full="" if same else full, short=len(text) <= _SHORT)


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_Grid = tuple[list[str], list[list[Any]]]


def _of_lines(data: Mapping[str, Any]) -> _Grid:
    ends = any("interval" in one for one in data["series"])
    columns = ["series", data["x_label"], data["y_label"], *(["from", "to"] if ends else [])]
    rows = [
        [one["name"], x, y, *(_ends(one.get("interval"), at) if ends else [])]
        for one in data["series"]
        for at, (x, y) in enumerate(zip(one["x"], one["y"], strict=True))
    ]
    return columns, rows


def _of_scatter(data: Mapping[str, Any]) -> _Grid:
    axes = [axis for axis in "xy" if any(f"{axis}_interval" in one for one in data["series"])]
    columns = ["series", "point", data["x_label"], data["y_label"]]
    columns += [f"{data[f'{axis}_label']}, {end}" for axis in axes for end in ("from", "to")]
    rows = []
    for one in data["series"]:
        for at, (x, y) in enumerate(zip(one["x"], one["y"], strict=True)):
            name = one["labels"][at] if "labels" in one else ""
            ends = [end for axis in axes for end in _ends(one.get(f"{axis}_interval"), at)]
            row = data["y_ticks"][int(y)] if "y_ticks" in data else y
            rows.append([one["name"], name, x, row, *ends])
    return columns, rows


def _ends(interval: Mapping[str, Any] | None, at: int) -> Iterator[float | None]:
    yield from (interval["low"][at], interval["high"][at]) if interval else (None, None)


def _of_histogram(data: Mapping[str, Any]) -> _Grid:
    edges, series = data["edges"], data["series"]
    columns = [f"{data['x_label']}: from", "to", *(one["name"] for one in series)]
    rows = [
        [edges[at], edges[at + 1], *(one["counts"][at] for one in series)]
        for at in range(len(edges) - 1)
    ]
    return columns, rows


def _of_heatmap(data: Mapping[str, Any]) -> _Grid:
    columns = [f"{data['y_label']} \\ {data['x_label']}", *map(str, data["x"])]
    rows = [[str(tick), *row] for tick, row in zip(data["y"], data["values"], strict=True)]
    return columns, rows


_BEHIND = {
    "lines": _of_lines,
    "scatter": _of_scatter,
    "histogram": _of_histogram,
    "heatmap": _of_heatmap,
}
