"""How a report writes numbers: as the commands print them, and in full where one looks closer."""

from __future__ import annotations

from typing import Any

MINUS = "\u2212"


def shown(value: Any) -> str:
    """Write a table's cell: digits in groups, four significant ones of a fraction."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS) if abs(value) < 10**15 else shown(float(value))
    if isinstance(value, float):
        if value == int(value) and abs(value) < 10**15:
            return shown(int(value))
        text = f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
        return _with_exponent(f"{value:.4g}" if abs(value) >= 10**15 else text)
    return str(value)


def in_full(value: Any) -> str:
    """Write a number with all its digits."""
    return repr(value) if isinstance(value, float) else str(value)


def is_number(value: Any) -> bool:
    """Say whether a cell is a number, to be set flush right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ranges(values: list[int]) -> str:
    """Write increasing whole numbers with their unbroken stretches joined: 0–11, 20–23."""
    stretches: list[list[int]] = []
    for value in values:
        if stretches and value == stretches[-1][-1] + 1:
            stretches[-1].append(value)
        else:
            stretches.append([value])
    return ", ".join(
        f"{part[0]}\u2013{part[-1]}" if len(part) > 2 else ", ".join(map(str, part))
        for part in stretches
    )


def _with_exponent(text: str) -> str:
    """Write 1e-05 as 1e-5, with signs of minus; raised digits are missing in some fonts."""
    digits, _, exponent = text.partition("e")
    return (f"{digits}e{int(exponent)}" if exponent else digits).replace("-", MINUS)
