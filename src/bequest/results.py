"""What every command leaves behind: `results.json`, five kinds of section and nothing else.

The document is `{"schema_version": 1, "command": str, "sections": [{"title", "type", "data"}]}`.
Its readers (`bequest report`, a notebook, another program) know these kinds and no method, so a
section is checked when it is made: a wrong shape is found by the command that wrote it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bequest.errors import InputError, StorageError

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
ACCOUNT = "Settings, versions, cost"
"""Title of the table that every command's results end with: `bequest.checkpoints.account`."""
ACCOUNT_COLUMNS = ["kind", "name", "value"]
"""Its columns; a kind is "setting", "version" or "cost"."""
_LARGEST = int(sys.float_info.max)

SectionType = Literal["table", "lines", "heatmap", "histogram", "scatter"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One titled piece of a result: a table, or the numbers of a figure.

    Numbers are plain Python ints and floats (call `.tolist()` on an array) and finite; a value
    that does not exist is None where the layout says so. Labels name the unit: "seconds",
    "loss (nats/token)". Keys in square brackets may be left out; unknown keys are refused.

    ========= ==================================================================================
    type      data
    ========= ==================================================================================
    table     `columns`: C str; `rows`: lists of C cells, a cell being a str, a number, a bool
              or None; [`headline`: bool, true for a table whose numbers sum up the whole result];
              [`metrics`: list of {`task`, `dataset`, `metric`: str, `value`: number,
              [`model`: str]}, numbers as a model card's metadata takes them; `model` is the hash of
              the model that was judged (`bequest.checkpoints.model_identity`), else that of the
              folder in which the results lie]
    lines     `x_label`, `y_label`: str; [`x_scale`, `y_scale`: "linear" or "log"]; `series`: list
              of {`name`: str, `x`: N numbers, `y`: N numbers or None for a gap,
              [`interval`: {`low`, `high`: like `y`}]}
    heatmap   `x_label`, `y_label`, `value_label`: str; `x`: C ticks, `y`: R ticks (str or int);
              `values`: R rows of C numbers or None, the first row being that of `y[0]`
    histogram `x_label`, `y_label`: str; `edges`: N+1 increasing numbers; `series`: list of
              {`name`: str, `counts`: N numbers >= 0}
    scatter   `x_label`, `y_label`: str; [`x_scale`, `y_scale`: "linear" or "log"]; [`y_ticks`: str,
              names of the rows 0, 1, ... from the top, which then are all that `y` may hold];
              `series`: list of {`name`: str, `x`: N numbers, `y`: N numbers, [`labels`: N str],
              [`x_interval`, `y_interval`: {`low`, `high`: N numbers or None}]}
    ========= ==================================================================================

    Raises:
        InputError: the title is empty, the type unknown, or the data not of the type's layout.
    """

    title: str
    """What the section shows, as a heading."""
    type: SectionType
    """One of the five kinds."""
    data: Mapping[str, Any]
    """The numbers and labels, in the kind's layout."""

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            raise InputError(f"title of a results section must be a text, got {self.title!r}")
        place = f"results section {self.title!r}"
        if self.type not in _LAYOUTS:
            raise _wrong(f"{place}: type", f"one of {', '.join(_LAYOUTS)}", self.type)
        _check(f"{place}: data", self.data, _LAYOUTS[self.type], {})
        if self.type == "histogram":
            edges = self.data["edges"]
            if any(left >= right for left, right in itertools.pairwise(edges)):
                raise _wrong(f"{place}: data['edges']", "increasing numbers", edges)
        if "y_ticks" in self.data:
            _check_rows(place, self.data)
        for axis in ("x", "y"):
            if self.data.get(f"{axis}_scale") == "log":
                _check_positive(place, axis, self.data["series"])


def results_document(command: str, sections: Sequence[Section]) -> dict[str, Any]:
    """Build the document that `write_results` writes, as `--json` prints it.

    Args:
        command: the command line that made the results, as it could be typed again.
        sections: in the order in which they are to be read.

    Raises:
        InputError: `command` is empty.
    """
    if not command.strip():
        raise InputError("command of a results document is empty; give the command line")
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "sections": [
            {"title": section.title, "type": section.type, "data": dict(section.data)}
            for section in sections
        ],
    }


def write_results(folder: str | Path, command: str, sections: Sequence[Section]) -> Path:
    """Write `results.json` into a folder, whole or not at all, and return its path.

    Args:
        folder: made if it does not exist; a `results.json` in it is replaced.
        command: the command line that made the results, as it could be typed again.
        sections: in the order in which they are to be read.

    Raises:
        InputError: `command` is empty.
        StorageError: the file cannot be written.
    """
    document = results_document(command, sections)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    target = Path(folder) / FILE_NAME
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{FILE_NAME}.", dir=target.parent) as beside:
            written = Path(beside) / FILE_NAME
            # A lone surrogate (a file name that is not UTF-8) becomes its JSON escape.
            with written.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    return target


@dataclass(frozen=True)
class _Value:
    """A single value: what it must be, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class _Values:
    """A list of values of one layout. Lists whose sizes have the same name are equally long."""

    item: _Layout
    size: str | None = None
    extra: int = 0
    """How many more values than `size` says: the edges of N bins are N + 1."""


_Layout = _Value | _Values | Mapping[str, Any]
"""The form of some data; a mapping's values are layouts, and a key that ends in ? is optional."""


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    # An integer beyond a float's range is valid JSON, but no program draws or averages it.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


_TEXT = _Value("a str", lambda value: isinstance(value, str))
_NUMBER = _Value("a finite int or float", _is_number)
_NUMBER_OR_GAP = _Value(
    "a finite int or float, or None", lambda value: value is None or _is_number(value)
)
_COUNT = _Value("a number >= 0", lambda value: _is_number(value) and value >= 0)
_TICK = _Value("a str or int", lambda value: type(value) in (str, int))
_CELL = _Value(
    "a str, a finite int or float, a bool or None",
    lambda value: value is None or isinstance(value, str | bool) or _is_number(value),
)

_FLAG = _Value("true or false", lambda value: isinstance(value, bool))
_SCALE = _Value('"linear" or "log"', lambda value: value in ("linear", "log"))

_AXES = {"x_label": _TEXT, "y_label": _TEXT}
_SCALES = {"x_scale?": _SCALE, "y_scale?": _SCALE}
_INTERVAL = {"low": _Values(_NUMBER_OR_GAP, "N"), "high": _Values(_NUMBER_OR_GAP, "N")}
_METRIC = {"task": _TEXT, "dataset": _TEXT, "metric": _TEXT, "value": _NUMBER}
_METRIC |= {"model?": _TEXT}
_LINE = {
    "name": _TEXT,
    "x": _Values(_NUMBER, "N"),
    "y": _Values(_NUMBER_OR_GAP, "N"),
    "interval?": _INTERVAL,
}
_POINTS = {
    "name": _TEXT,
    "x": _Values(_NUMBER, "N"),
    "y": _Values(_NUMBER, "N"),
    "labels?": _Values(_TEXT, "N"),
    "x_interval?": _INTERVAL,
    "y_interval?": _INTERVAL,
}

_LAYOUTS: Mapping[str, _Layout] = {
    "table": {
        "columns": _Values(_TEXT, "C"),
        "rows": _Values(_Values(_CELL, "C")),
        "headline?": _FLAG,
        "metrics?": _Values(_METRIC),
    },
    "lines": {**_AXES, **_SCALES, "series": _Values(_LINE)},
    "heatmap": {
        **_AXES,
        "value_label": _TEXT,
        "x": _Values(_TICK, "C"),
        "y": _Values(_TICK, "R"),
        "values": _Values(_Values(_NUMBER_OR_GAP, "C"), "R"),
    },
    "histogram": {
        **_AXES,
        "edges": _Values(_NUMBER, "N", extra=1),
        "series": _Values({"name": _TEXT, "counts": _Values(_COUNT, "N")}),
    },
    "scatter": {**_AXES, **_SCALES, "y_ticks?": _Values(_TEXT), "series": _Values(_POINTS)},
}


def _check(place: str, value: Any, layout: _Layout, sizes: dict[str, int]) -> None:
    """Hold a value to a layout; `sizes` are those that the lists around and before it set."""
    if isinstance(layout, _Value):
        if not layout.holds(value):
            raise _wrong(place, layout.wanted, value)
    elif isinstance(layout, _Values):
        if not isinstance(value, list | tuple):
            raise _wrong(place, "a list", value)
        if layout.size is not None:
            size = sizes.setdefault(layout.size, max(1, len(value) - layout.extra))
            if len(value) != size + layout.extra:
                raise _wrong(place, f"a list of {size + layout.extra} values", value)
        for position, item in enumerate(value):
            _check(f"{place}[{position}]", item, layout.item, dict(sizes))
    else:
        keys = {key.removesuffix("?"): key for key in layout}
        if not isinstance(value, Mapping) or not keys.keys() >= value.keys():
            raise _wrong(place, f"a mapping with the keys {', '.join(layout)}", value)
        for key, marked in keys.items():
            if key in value:
                _check(f"{place}[{key!r}]", value[key], layout[marked], sizes)
            elif key == marked:
                raise _wrong(f"{place}[{key!r}]", "given", "nothing")


def _check_rows(place: str, data: Mapping[str, Any]) -> None:
    """Refuse points that stand in no named row."""
    rows = range(len(data["y_ticks"]))
    for position, one in enumerate(data["series"]):
        for value in one["y"]:
            if value not in rows:
                wanted = f"one of the rows 0 to {len(rows) - 1}"
                raise _wrong(f"{place}: data['series'][{position}]['y']", wanted, value)


def _check_positive(place: str, axis: str, series: Sequence[Mapping[str, Any]]) -> None:
    """Refuse numbers that have no place on a logarithmic axis."""
    for position, one in enumerate(series):
        interval = one.get("interval" if axis == "y" and "interval" in one else f"{axis}_interval")
        for values in (one[axis], *(interval or {}).values()):
            for value in values:
                if value is not None and value <= 0:
                    raise _wrong(
                        f"{place}: data['series'][{position}], on its logarithmic {axis} axis,",
                        "above 0",
                        value,
                    )


def _wrong(place: str, wanted: str, got: object) -> InputError:
    shown = repr(got)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InputError(f"{place} must be {wanted}, got {shown} ({type(got).__name__})")
