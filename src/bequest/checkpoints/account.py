"""Under which settings and versions a result came about, and what it took: one section for all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from bequest.checkpoints.lineage import package_versions
from bequest.results import ACCOUNT, ACCOUNT_COLUMNS, Section

_OF_THE_OUTPUT = ("out", "overwrite")
"""Fields that decide nothing about the result."""


def account(settings: Any, *, seconds: float | None = None, **counts: int | None) -> Section:
    """Return the section of `results.json` that every command ends with.

    Args:
        settings: a configuration, of which the fields that differ from their defaults are told, or
            a mapping; both may hold others.
        seconds: that this call took. What was done before it was broken off is not in it.
        counts: what was read or trained on in all, such as `tokens` or `samples`; None is left out.
    """
    rows: list[list[Any]] = [["setting", name, value] for name, value in _given(settings, "")]
    rows += [["version", name, number] for name, number in package_versions().items()]
    if seconds is not None:
        rows.append(["cost", "seconds of this call", round(seconds, 3)])
    rows += [["cost", name.replace("_", " "), n] for name, n in counts.items() if n is not None]
    data = {"columns": list(ACCOUNT_COLUMNS), "rows": rows}
    return Section(title=ACCOUNT, type="table", data=data)


def _given(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        named = {str(name): value for name, value in settings.items()}
    else:
        named = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if getattr(settings, field.name) != _default(field)
        }
    for name, value in named.items():
        if not prefix and name in _OF_THE_OUTPUT:
            continue
        if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            yield from _given(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _cell(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
