"""Points with intervals and labels, and what shows when one points at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from bequest.reporting import palette
from bequest.reporting.numbers import shown

_MOST_TITLES = 400
_MOST_LABELS = 14
_MOST_VECTOR_POINTS = 3000
_PLACES = ((7, 5), (7, -14), (-7, 5), (-7, -14), (0, 12), (0, -20), (14, 14), (-14, 14))
"""Where a label may stand beside its point, in pixels, best first."""


class HoverTitles:
    """Texts that show when one points at a part of a picture; a picture holds only so many."""

    def __init__(self) -> None:
        self.by_gid: dict[str, str] = {}

    def name(self, text: str) -> str | None:
        """Return the gid of a part that shows this text; None when there are too many."""
        if len(self.by_gid) >= _MOST_TITLES:
            return None
        gid = f"hover{len(self.by_gid)}"
        self.by_gid[gid] = text
        return gid

    def add(self, axes: Axes, x: float, y: float, text: str) -> None:
        """Lay an invisible spot over a point, large enough to be pointed at."""
        gid = self.name(text)
        if gid is not None:
            axes.plot([x], [y], "o", markersize=11, alpha=0, color=palette.INK, gid=gid, zorder=9)


def draw_scatter(axes: Axes, series: Sequence[Mapping[str, Any]], titles: HoverTitles) -> None:
    """Draw every series of a scatter section; points are named where few enough have a label."""
    count = sum(len(one["x"]) for one in series)
    labelled = sum(len(one.get("labels", ())) for one in series) <= _MOST_LABELS
    labels: list[tuple[float, float, str]] = []
    for number, one in enumerate(series):
        as_pixels = count > _MOST_VECTOR_POINTS
        colour = (
            palette.SOLID[number % len(palette.SOLID)]
            if as_pixels
            else palette.series_colour(number)
        )
        _draw_intervals(axes, one, colour)
        axes.plot(
            one["x"],
            one["y"],
            linestyle="none",
            marker=palette.series_marker(number),
            markersize=7 if count <= 200 else 3.5,
            color=colour,
            alpha=1.0 if count <= 200 else 0.6,
            markeredgewidth=0,
            rasterized=as_pixels,
        )
        for place, (x, y) in enumerate(zip(one["x"], one["y"], strict=True)):
            name = one["labels"][place] if "labels" in one else ""
            told = f"{one['name']}{', ' + name if name else ''}: {shown(x)}, {shown(y)}"
            titles.add(axes, x, y, told)
            if name and labelled:
                labels.append((x, y, name))
    axes.margins(0.1)
    _place_labels(axes, labels)


def draw_rows(
    axes: Axes, series: Sequence[Mapping[str, Any]], ticks: Sequence[str], titles: HoverTitles
) -> None:
    """Draw points in named rows, those of one row above one another, with their intervals."""
    apart = 0.5 / max(1, len(series))
    axes.axvline(0, color=palette.MUTED, linewidth=0.8, zorder=1)
    for number, one in enumerate(series):
        colour = palette.series_colour(number)
        shifted = [row + apart * (number - (len(series) - 1) / 2) for row in one["y"]]
        _draw_intervals(axes, {**one, "y": shifted}, colour)
        axes.plot(
            one["x"],
            shifted,
            linestyle="none",
            marker=palette.series_marker(number),
            markersize=7,
            color=colour,
            markeredgewidth=0,
        )
        ends = one.get("x_interval", {"low": [None] * len(shifted), "high": [None] * len(shifted)})
        for x, y, row, low, high in zip(
            one["x"], shifted, one["y"], ends["low"], ends["high"], strict=True
        ):
            between = "" if None in (low, high) else f" ({shown(low)} to {shown(high)})"
            titles.add(axes, x, y, f"{one['name']}, {ticks[int(row)]}: {shown(x)}{between}")
    names = [name if len(name) <= 24 else name[:23] + "…" for name in ticks]
    axes.set_yticks(range(len(ticks)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.margins(x=0.08)


def _draw_intervals(axes: Axes, one: Mapping[str, Any], colour: str) -> None:
    lines: dict[str, Any] = {"color": colour, "linewidth": 1.4, "alpha": 0.75, "zorder": 1.8}
    for x, y, low, high in _ends(one, "x_interval"):
        axes.plot([x if low is None else low, x if high is None else high], [y, y], **lines)
    for x, y, low, high in _ends(one, "y_interval"):
        axes.plot([x, x], [y if low is None else low, y if high is None else high], **lines)


def _ends(
    one: Mapping[str, Any], key: str
) -> list[tuple[float, float, float | None, float | None]]:
    if key not in one:
        return []
    return list(zip(one["x"], one["y"], one[key]["low"], one[key]["high"], strict=True))


def _place_labels(axes: Axes, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's name where it covers no other name and no point, if there is such a place."""
    figure = axes.get_figure(root=True)
    if not labels or figure is None:
        return
    figure.draw_without_rendering()
    spots = [axes.transData.transform((x, y)) for x, y, _ in labels]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots]
    inside = axes.get_window_extent()
    for (x, y, name), own in zip(labels, list(taken), strict=True):
        text = axes.annotate(name if len(name) <= 28 else name[:27] + "…", (x, y), zorder=5)
        text.set_annotation_clip(False)
        others = [box for box in taken if box is not own]
        best = min(_PLACES, key=lambda place: _cost(text, place, others, inside))
        _move(text, best)
        taken.append(text.get_window_extent())


def _cost(text: Annotation, place: tuple[int, int], taken: Sequence[Bbox], inside: Bbox) -> float:
    """How much of other things a text covers at a place, and how far it leaves the axes."""
    _move(text, place)
    box = text.get_window_extent()
    covered = sum(
        shared.width * shared.height
        for other in taken
        if (shared := Bbox.intersection(box, other)) is not None
    )
    within = Bbox.intersection(box, inside)
    outside = box.width * box.height - (within.width * within.height if within is not None else 0)
    return covered + 3 * outside + 0.1 * _PLACES.index(place)


def _move(text: Annotation, place: tuple[int, int]) -> None:
    text.set_anncoords("offset points")
    text.xyann = place
    text.set_horizontalalignment("left" if place[0] > 0 else "right" if place[0] < 0 else "center")
