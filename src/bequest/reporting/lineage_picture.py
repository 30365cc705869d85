"""The lineage as a picture: models as boxes, operations with their settings between them."""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from bequest.reporting.layers import components, place
from bequest.reporting.lineage_graph import LineageGraph, Model, Operation, setting_text

_WIDE, _BOX, _GAP_X, _GAP_Y, _BEND = 1000.0, 224.0, 28.0, 30.0, 18.0
_NARROW, _LANE = 336.0, 13.0
_LINE, _PAD = 17.0, 11.0
_MOST_SETTINGS = 4
_NAME_LETTER, _SMALL_LETTER = 7.7, 6.4
"""Widths of an average letter in pixels, on the safe side."""


@dataclass(kw_only=True)
class _Box:
    """A node on the paper; x and y are its upper left corner."""

    kind: str
    lines: list[tuple[str, str]]
    """Class and text of each line."""
    title: str
    width: float
    x: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> float:
        """The height that its lines need."""
        return len(self.lines) * _LINE + 2 * _PAD - 4

    @property
    def middle(self) -> float:
        """The middle of its width."""
        return self.x + self.width / 2


def draw_lineage(graph: LineageGraph, picture_id: str, label_id: str) -> dict[str, Markup]:
    """Draw the graph in rows for a screen, and in one column for a phone.

    Args:
        graph: from `lineage_graph`, with at least one model.
        picture_id: begins every id in the pictures.
        label_id: id of the element that names the picture.
    """
    nodes = [*graph.models, *graph.operations]
    edges = list(_edges(graph))
    return {
        "wide": _wide(graph, nodes, edges, f"{picture_id}-wide", label_id),
        "narrow": _narrow(graph, edges, f"{picture_id}-narrow", label_id),
    }


def _edges(graph: LineageGraph) -> Iterator[tuple[str, str]]:
    seen = set()
    for operation in graph.operations.values():
        for _, key in operation.inputs:
            if (key, operation.key) not in seen:
                seen.add((key, operation.key))
                yield key, operation.key
        yield operation.key, operation.output


def _boxes(graph: LineageGraph, width: float) -> dict[str, _Box]:
    boxes = {key: _model_box(model, width) for key, model in graph.models.items()}
    return boxes | {key: _operation_box(one, width) for key, one in graph.operations.items()}


def _model_box(model: Model, width: float) -> _Box:
    room = width - 2 * _PAD - 4
    lines = [("name", fit(model.name, int(room / _NAME_LETTER)))]
    lines += [("detail", fit(text, int(room / _SMALL_LETTER))) for text in model.details]
    kind = "model reported" if model.reported else "model"
    return _Box(kind=kind, lines=lines, title=model.path or model.name, width=width)


def _operation_box(operation: Operation, width: float) -> _Box:
    room = int((width - 2 * _PAD) / _SMALL_LETTER)
    short = [f"{name}: {text}" for name, text in operation.settings]
    # Where it went is the next box, and what was not asked for tells little.
    telling = [
        f"{name}: {text}"
        for name, text in operation.settings
        if name != "out" and text != setting_text(False)
    ]
    lines = [("operation", fit(operation.name, room))]
    lines += [("detail", fit(text, room)) for text in telling[:_MOST_SETTINGS]]
    if len(short) > _MOST_SETTINGS:
        lines.append(("detail", f"and {len(short) - len(telling[:_MOST_SETTINGS])} more"))
    title = "\n".join([operation.command or operation.name, *short])
    return _Box(kind="step", lines=lines, title=title, width=width)


def _wide(
    graph: LineageGraph,
    nodes: Sequence[str],
    edges: Sequence[tuple[str, str]],
    picture_id: str,
    label_id: str,
) -> Markup:
    """Each family of models by itself, side by side while there is room."""
    boxes = _boxes(graph, _BOX)
    bends: dict[str, tuple[float, float, float]] = {}
    paths: list[tuple[str, ...]] = []
    x = y = height = whole = 0.0
    for number, family in enumerate(components(nodes, edges)):
        inside = [(one, other) for one, other in edges if one in family]
        plan = place(family, inside)
        width = max(map(_row_width, plan.rows))
        if x and x + width > _WIDE:
            x, y, height = 0.0, y + height + 1.6 * _GAP_Y, 0.0
        # Bends are numbered within their family.
        names = {bend: f"{number} {bend}" for bend in plan.bends}
        rows = [[names.get(node, node) for node in row] for row in plan.rows]
        paths += [tuple(names.get(node, node) for node in path) for path in plan.paths]
        height = max(height, _set_rows(rows, boxes, bends, x + 2, y + 2, width))
        x += width + 1.6 * _GAP_X
        whole = max(whole, x - 1.6 * _GAP_X)
    svg = _canvas(whole + 4, y + height + 4, "wide", picture_id, label_id)
    for path in paths:
        _draw_edge(svg, list(_stations(path, boxes, bends)), picture_id)
    for box in boxes.values():
        _draw_box(svg, box)
    return _written(svg)


def _row_width(row: Sequence[str]) -> float:
    widths = [_BEND if node.startswith("bend ") else _BOX for node in row]
    return sum(widths) + _GAP_X * (len(row) - 1)


def _set_rows(
    rows: Sequence[Sequence[str]],
    boxes: Mapping[str, _Box],
    bends: dict[str, tuple[float, float, float]],
    left: float,
    top: float,
    whole: float,
) -> float:
    """Give every box of a family its place, each row in the middle; return the family's height."""
    y = top
    for row in rows:
        widths = [boxes[node].width if node in boxes else _BEND for node in row]
        x = left + (whole - sum(widths) - _GAP_X * (len(row) - 1)) / 2
        height = max((boxes[node].height for node in row if node in boxes), default=0.0)
        for node, width in zip(row, widths, strict=True):
            if node in boxes:
                boxes[node].x, boxes[node].y = x, y + (height - boxes[node].height) / 2
            else:
                bends[node] = (x + width / 2, y, y + height)
            x += width + _GAP_X
        y += height + _GAP_Y
    return y - _GAP_Y - top


def _stations(
    path: Sequence[str],
    boxes: Mapping[str, _Box],
    bends: Mapping[str, tuple[float, float, float]],
) -> Iterator[tuple[float, float]]:
    """The points that an edge runs through: out at the bottom, past the bends, in at the top."""
    first, last = boxes[path[0]], boxes[path[-1]]
    yield first.middle, first.y + first.height
    for node in path[1:-1]:
        x, top, bottom = bends[node]
        yield x, top
        yield x, bottom
    yield last.middle, last.y - 5


def _draw_edge(svg: ET.Element, points: Sequence[tuple[float, float]], picture_id: str) -> None:
    parts = [f"M {points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        half = (y1 + y2) / 2
        parts.append(f"C {x1:.1f} {half:.1f} {x2:.1f} {half:.1f} {x2:.1f} {y2:.1f}")
    _path(svg, " ".join(parts), picture_id)


def _narrow(
    graph: LineageGraph,
    edges: Sequence[tuple[str, str]],
    picture_id: str,
    label_id: str,
) -> Markup:
    """One column; an edge that skips a box runs down a lane at the left."""
    order = list(_reading_order(graph, edges))
    number = {node: at for at, node in enumerate(order)}
    long = sorted((number[a], number[b]) for a, b in edges if number[b] != number[a] + 1)
    lanes = _lanes(long)
    left = 2 + _LANE * (max(lanes.values(), default=-1) + 1)
    boxes = _boxes(graph, _NARROW - left - 2)
    y = 2.0
    for node in order:
        boxes[node].x, boxes[node].y = left, y
        y += boxes[node].height + _GAP_Y
    svg = _canvas(_NARROW, y - _GAP_Y + 2, "narrow", picture_id, label_id)
    for start, end in edges:
        one, other = boxes[start], boxes[end]
        pair = (number[start], number[end])
        if pair not in lanes:
            _draw_edge(
                svg, [(one.middle, one.y + one.height), (other.middle, other.y - 5)], picture_id
            )
            continue
        x = left - _LANE * (lanes[pair] + 1) + 3
        down, up = one.y + one.height / 2 + 4, other.y + other.height / 2 - 4
        bend = f"M {left:.1f} {down:.1f} H {x + 5:.1f} Q {x:.1f} {down:.1f} {x:.1f} {down + 5:.1f}"
        bend += f" V {up - 5:.1f} Q {x:.1f} {up:.1f} {x + 5:.1f} {up:.1f} H {left - 5:.1f}"
        _path(svg, bend, picture_id)
    for box in boxes.values():
        _draw_box(svg, box)
    return _written(svg)


def _reading_order(graph: LineageGraph, edges: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One family after the other; what an operation made right after it."""
    told: set[str] = set()
    families = components([*graph.models, *graph.operations], edges)
    ordered = [one for family in families for one in graph.operations.values() if one.key in family]
    for operation in ordered:
        for key in (*(key for _, key in operation.inputs), operation.key, operation.output):
            if key not in told:
                told.add(key)
                yield key


def _lanes(spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Give each span the innermost lane in which it meets no other."""
    lanes: dict[tuple[int, int], int] = {}
    for span in sorted(spans, key=lambda one: (one[1] - one[0], one)):
        taken = {
            lane for other, lane in lanes.items() if other[0] <= span[1] and span[0] <= other[1]
        }
        lanes[span] = next(lane for lane in range(len(spans)) if lane not in taken)
    return lanes


def _canvas(width: float, height: float, shape: str, picture_id: str, label_id: str) -> ET.Element:
    svg = ET.Element(
        "svg",
        {
            "class": f"picture lineage {shape}",
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            "style": f"max-width: {width:.0f}px",
            "role": "img",
            "aria-labelledby": label_id,
            "focusable": "false",
        },
    )
    marker = ET.SubElement(
        ET.SubElement(svg, "defs"),
        "marker",
        {
            "id": f"{picture_id}-arrow",
            "viewBox": "0 0 8 8",
            "refX": "2",
            "refY": "4",
            "markerWidth": "7",
            "markerHeight": "7",
            "orient": "auto",
        },
    )
    ET.SubElement(marker, "path", {"d": "M 0 0 L 8 4 L 0 8 z", "class": "arrow"})
    return svg


def _path(svg: ET.Element, d: str, picture_id: str) -> None:
    ET.SubElement(svg, "path", {"d": d, "class": "edge", "marker-end": f"url(#{picture_id}-arrow)"})


def _draw_box(svg: ET.Element, box: _Box) -> None:
    group = ET.SubElement(svg, "g", {"class": box.kind})
    ET.SubElement(group, "title").text = box.title
    corner = {"x": f"{box.x:.1f}", "y": f"{box.y:.1f}", "rx": "7"}
    size = {"width": f"{box.width:.1f}", "height": f"{box.height:.1f}"}
    ET.SubElement(group, "rect", corner | size)
    for row, (kind, text) in enumerate(box.lines):
        at = {"x": f"{box.middle:.1f}", "y": f"{box.y + _PAD + 10.5 + row * _LINE:.1f}"}
        ET.SubElement(group, "text", at | {"class": kind}).text = text


def _written(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode"))


def fit(text: str, letters: int) -> str:
    """Shorten a text in its middle to a width in letters; a wide letter of Asia counts as two."""
    text = " ".join(text.split())
    widths = [2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text]
    if sum(widths) <= letters:
        return text
    head, tail, room = 0, len(text), letters - 1
    while room > 0 and head < tail:
        from_head = head <= len(text) - tail
        width = widths[head] if from_head else widths[tail - 1]
        room -= width
        if room < 0:
            break
        head, tail = (head + 1, tail) if from_head else (head, tail - 1)
    return f"{text[:head]}…{text[tail:]}"
