"""Pictures of the four kinds of section that are drawn: lines, histogram, scatter, heat map."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from bequest.reporting import palette
from bequest.reporting.heatmap import draw_heatmap, heatmap_height
from bequest.reporting.numbers import shown
from bequest.reporting.points import HoverTitles, draw_rows, draw_scatter
from bequest.reporting.svg import drawing, to_svg
from bequest.results import Section

Shape = Literal["wide", "narrow"]
_WIDTHS: Mapping[Shape, float] = {"wide": 720.0, "narrow": 336.0}
"""Pixels: each picture is made twice, so that its text is as large on a phone as on a screen."""
MARKED_POINTS = 30
"""A line of more points is drawn without markers."""
_POINTS_PER_INCH = 72.0
_LARGEST_DRAWN = 1e100
_ROWS_FRAME, _ROW, _POINT = 84.0, 22.0, 14.0
"""Pixels that a picture of named rows needs around them, for each row, and for each point of it."""


def draw(section: Section, picture_id: str, label_id: str) -> dict[Shape, Markup]:
    """Draw a section in both shapes.

    Args:
        section: of any kind but a table.
        picture_id: begins every id in the pictures; unique in the page.
        label_id: id of the element that names the pictures.
    """
    return {shape: _draw(section, f"{picture_id}-{shape}", label_id, shape) for shape in _WIDTHS}


def legend(section: Section) -> list[tuple[Markup, str]]:
    """Return each series' sign and name; a single series needs none."""
    series = section.data.get("series", [])
    if len(series) < 2:
        return []
    points = max((len(one.get("x", ())) for one in series), default=0)
    line = section.type != "scatter"
    marker = section.type == "scatter" or (section.type == "lines" and points <= MARKED_POINTS)
    return [
        (palette.swatch(number, line=line, marker=marker), one["name"])
        for number, one in enumerate(series)
    ]


def is_empty(section: Section) -> bool:
    """Say whether there is nothing to draw."""
    data = section.data
    if section.type == "heatmap":
        return not any(value is not None for row in data["values"] for value in row)
    if section.type == "histogram":
        return not any(one["counts"] for one in data["series"])
    return not any(value is not None for one in data["series"] for value in one["y"])


def is_drawable(section: Section) -> bool:
    """Say whether an axis can hold the numbers: differences and margins must be floats as well."""
    return _is_moderate(section.data)


def _is_moderate(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_moderate, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_moderate, value))
    return not isinstance(value, int | float) or abs(value) <= _LARGEST_DRAWN


def _draw(section: Section, picture_id: str, label_id: str, shape: Shape) -> Markup:
    data, width = section.data, _WIDTHS[shape]
    height = 0.52 * width if shape == "wide" else 0.84 * width
    if section.type == "heatmap":
        height = heatmap_height(data, width)
    elif "y_ticks" in data:
        height = _ROWS_FRAME + len(data["y_ticks"]) * (_ROW + _POINT * len(data["series"]))
    with drawing(picture_id):
        figure = Figure(
            figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH),
            dpi=_POINTS_PER_INCH,
            layout="constrained",
        )
        axes = figure.subplots()
        titles = HoverTitles()
        _label(axes, data, shape)
        _DRAWERS[section.type](axes, data, titles)
        return to_svg(
            figure,
            picture_id,
            css_class=f"picture {shape}",
            label_id=label_id,
            titles=titles.by_gid,
        )


def _label(axes: Axes, data: Mapping[str, Any], shape: Shape) -> None:
    """Name the axes; the vertical one above its end, where it is read without turning the head."""
    letters = 90 if shape == "wide" else 40
    y_label = "\n".join(textwrap.wrap(data["y_label"], letters)[:3])
    x_label = "\n".join(textwrap.wrap(data["x_label"], letters)[:3])
    axes.set_title(y_label, loc="left", fontsize=12, color=palette.MUTED, pad=9)
    axes.set_xlabel(x_label, color=palette.MUTED, labelpad=6)
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if data.get(f"{name}_scale") == "log":
            _make_logarithmic(axes, name)
        axis.get_offset_text().set_color(palette.MUTED)


def _make_logarithmic(axes: Axes, name: str) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _position: shown(value)))
    axis.set_minor_formatter(NullFormatter())


def _draw_lines(axes: Axes, data: Mapping[str, Any], titles: HoverTitles) -> None:
    for number, one in enumerate(data["series"]):
        colour = palette.series_colour(number)
        x, y = one["x"], _with_gaps(one["y"])
        interval = one.get("interval")
        if interval:
            low, high = _with_gaps(interval["low"]), _with_gaps(interval["high"])
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.8,
            dashes=palette.series_dashes(number) or (None, None),
            marker=palette.series_marker(number) if len(x) <= MARKED_POINTS else None,
            markersize=4.5,
        )
        for place, (at, value) in enumerate(zip(x, one["y"], strict=True)):
            if value is not None:
                between = _between(interval, place)
                titles.add(
                    axes, at, value, f"{one['name']}: {shown(value)}{between}, at {shown(at)}"
                )
    # There is no step 2.25, nor a block between two.
    if data.get("x_scale") != "log" and all(
        type(x) is int for one in data["series"] for x in one["x"]
    ):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.margins(x=0.02, y=0.08)


def _between(interval: Mapping[str, Any] | None, place: int) -> str:
    if not interval or interval["low"][place] is None or interval["high"][place] is None:
        return ""
    return f" ({shown(interval['low'][place])} to {shown(interval['high'][place])})"


def _with_gaps(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _draw_histogram(axes: Axes, data: Mapping[str, Any], titles: HoverTitles) -> None:
    """The first series as bars, others as steps before them, so that all are seen."""
    edges = [float(edge) for edge in data["edges"]]
    for number, one in enumerate(data["series"]):
        colour = palette.series_colour(number)
        if number == 0:
            axes.stairs(one["counts"], edges, color=colour, fill=True, alpha=0.3, linewidth=0)
        dashes = palette.series_dashes(number)
        axes.stairs(
            one["counts"],
            edges,
            color=colour,
            linewidth=1.6,
            linestyle=(0, dashes) if dashes else "solid",
        )
    top = max((count for one in data["series"] for count in one["counts"]), default=0) or 1
    for place, (left, right) in enumerate(itertools.pairwise(edges)):
        counts = ", ".join(f"{one['name']} {shown(one['counts'][place])}" for one in data["series"])
        bar = Rectangle((left, 0), right - left, top, linewidth=0, alpha=0, color=palette.INK)
        bar.set_gid(titles.name(f"{shown(left)} to {shown(right)}: {counts}"))
        axes.add_patch(bar)
    if top >= 5 and any(type(count) is int for one in data["series"] for count in one["counts"]):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1.06 * top)
    axes.margins(x=0.01)


def _draw_scatter(axes: Axes, data: Mapping[str, Any], titles: HoverTitles) -> None:
    if "y_ticks" in data:
        draw_rows(axes, data["series"], data["y_ticks"], titles)
    else:
        draw_scatter(axes, data["series"], titles)


def _draw_heatmap(axes: Axes, data: Mapping[str, Any], titles: HoverTitles) -> None:
    draw_heatmap(axes, data, titles)


_DRAWERS: Mapping[str, Callable[[Axes, Mapping[str, Any], HoverTitles], None]] = {
    "lines": _draw_lines,
    "histogram": _draw_histogram,
    "scatter": _draw_scatter,
    "heatmap": _draw_heatmap,
}
