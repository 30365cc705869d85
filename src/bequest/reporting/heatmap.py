"""Heat maps: shades of one colour, or of two from a neutral middle where values have both signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline

from bequest.reporting import palette
from bequest.reporting.numbers import shown
from bequest.reporting.points import HoverTitles

_MOST_SINGLE_CELLS = 400
_MOST_WRITTEN = 6
"""Columns and rows up to which each cell's value is written in it."""
_CENTRED: Mapping[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 11}
_MOST_TICKS = 24
_LONGEST_TICK = 22


def heatmap_height(data: Mapping[str, Any], width: float) -> float:
    """The picture's height in pixels: cells neither flat nor towering."""
    rows, columns = max(1, len(data["y"])), max(1, len(data["x"]))
    cell = min(34.0, max(4.0, 0.8 * width / columns))
    return min(1.5 * width, max(150.0, 110.0 + cell * rows))


def shade(value: float, low: float, high: float) -> int:
    """Return which of the shades a value has, 0 for the lowest."""
    if not high > low:
        return palette.NUM_STEPS // 2
    share = min(1.0, max(0.0, (value / 2 - low / 2) / (high / 2 - low / 2)))
    return min(palette.NUM_STEPS - 1, int(share * palette.NUM_STEPS))


def limits(values: Sequence[Sequence[float | None]]) -> tuple[float, float, bool]:
    """Return the lowest and the highest value of the scale, and whether its middle is zero."""
    numbers = [float(value) for row in values for value in row if value is not None]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    if low < 0 < high:
        far = max(-low, high)
        return -far, far, True
    return low, high, False


def draw_heatmap(axes: Axes, data: Mapping[str, Any], titles: HoverTitles) -> None:
    """Draw cells, ticks and no colour bar: the page's legend tells the shades."""
    values, x_ticks, y_ticks = data["values"], data["x"], data["y"]
    low, high, diverging = limits(values)
    colours = palette.DIVERGING if diverging else palette.SEQUENTIAL
    by_shade: dict[int, list[tuple[int, int]]] = {}
    written = (
        len(x_ticks) <= _MOST_WRITTEN
        and len(y_ticks) <= _MOST_WRITTEN
        and all(len(shown(value)) <= 6 for row in values for value in row)
    )
    single = len(x_ticks) * len(y_ticks) <= _MOST_SINGLE_CELLS
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value is None:
                continue
            step = shade(float(value), low, high)
            if not single:
                by_shade.setdefault(step, []).append((column, row))
                continue
            # An edge of its own colour closes the hairline that browsers leave between cells.
            cell = Rectangle((column, row), 1, 1, color=colours[step], linewidth=0.6)
            where = f"{data['y_label']} {y_ticks[row]}, {data['x_label']} {x_ticks[column]}"
            cell.set_gid(titles.name(f"{where}: {shown(value)}"))
            axes.add_patch(cell)
            if written:
                ink = (palette.ON_DIVERGING if diverging else palette.ON_SEQUENTIAL)[step]
                axes.text(column + 0.5, row + 0.5, shown(value), color=ink, **_CENTRED)
    for step, cells in by_shade.items():
        axes.add_patch(PathPatch(_outline(cells), color=colours[step], linewidth=0.6))
    axes.grid(visible=False)
    axes.set_xlim(0, max(1, len(x_ticks)))
    axes.set_ylim(max(1, len(y_ticks)), 0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    room = axes.get_figure().get_size_inches()[0] * 72 * 0.85  # type: ignore[union-attr]
    places, names = _ticks(x_ticks, room)
    axes.set_xticks(places, names, rotation=0 if _fits(names, room) else 60, ha="center")
    axes.set_yticks(*_ticks(y_ticks, 20 * _MOST_TICKS, height=20))


def _outline(cells: Sequence[tuple[int, int]]) -> Outline:
    """One outline of many cells: a picture of ten thousand stays small."""
    corners, codes = [], []
    for column, row in cells:
        corners += [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)]
        corners.append((column, row))
        codes += [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    return Outline(corners, codes)


def _ticks(
    ticks: Sequence[str | int], room: float, height: float | None = None
) -> tuple[list[float], list[str]]:
    """Name every cell, or every second, fifth ... so that names do not touch."""
    names = [_short(tick) for tick in ticks]
    widest = max((len(name) for name in names), default=1) * 7 + 8 if height is None else height
    widest = min(widest, 24) if height is None and len(ticks) * widest > room else widest
    most = max(1, min(int(room / widest), 10 * _MOST_TICKS))
    step = next(one for one in _STEPS if len(ticks) <= most * one)
    return [place + 0.5 for place in range(0, len(ticks), step)], names[::step]


_STEPS = [scale * one for scale in (1, 10, 100, 1000, 10000, 100000) for one in (1, 2, 5)]


def _fits(names: Sequence[str], room: float) -> bool:
    return sum(len(name) * 7 + 8 for name in names) <= room


def _short(tick: str | int) -> str:
    text = str(tick)
    return text if len(text) <= _LONGEST_TICK else text[: _LONGEST_TICK - 1] + "…"
