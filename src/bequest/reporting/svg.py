"""From matplotlib's SVG to one that stands in a page: unique ids, the page's font and colours."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from bequest.reporting import palette

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
    # A dollar sign in a model's name is no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12.0,
    "path.simplify": True,
    "text.color": palette.INK,
    "axes.edgecolor": palette.MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": palette.INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": palette.RULE,
    "grid.linewidth": 0.7,
    "xtick.color": palette.MUTED,
    "xtick.labelcolor": palette.INK,
    "ytick.color": palette.MUTED,
    "ytick.labelcolor": palette.INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "figure.facecolor": "none",
}


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Draw with the report's settings whatever the user's are, and the same bytes each time."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Letters that DejaVu lacks are set by the browser's fonts; matplotlib only measures.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | {"svg.hashsalt": salt})
        yield


def to_svg(
    figure: Figure,
    picture_id: str,
    *,
    css_class: str,
    label_id: str,
    titles: dict[str, str] | None = None,
) -> Markup:
    """Write a figure as an `<svg>` element of an HTML page.

    Args:
        figure: drawn within `drawing`.
        picture_id: begins every id in the picture; unique in the page.
        css_class: class of the element.
        label_id: id of the element that names the picture.
        titles: by `gid` of an artist, what shows when one points at it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    # matplotlib wrote this a moment ago: no entity in it is another's.
    root = ET.fromstring(stream.getvalue())
    _, _, width, height = root.attrib["viewBox"].split()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        _point_at(element, titles or {})
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = dict(_attributes(element, picture_id))
        element.tail = None
        if element.tag not in ("text", "tspan", "title"):
            element.text = None
    root.attrib = {
        "class": css_class,
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-labelledby": label_id,
        "focusable": "false",
    }
    return Markup(ET.tostring(root, encoding="unicode"))


def _point_at(element: ET.Element, titles: dict[str, str]) -> None:
    text = titles.get(element.attrib.get("id", ""))
    if text is not None:
        title = ET.Element("title")
        title.text = text
        element.insert(0, title)


def _attributes(element: ET.Element, picture_id: str) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        if name == "id":
            yield "id", f"{picture_id}-{value}"
        elif name in ("href", f"{_XLINK}href"):
            # In HTML plain href will do; only the picture's own parts and its pixels are named.
            yield "href", f"#{picture_id}-{value[1:]}" if value.startswith("#") else value
        elif not name.startswith("{"):
            value = value.replace("url(#", f"url(#{picture_id}-")
            # The page's font; and a hundredth of a pixel is fine enough.
            value = re.sub(r"\s*font-family: [^;]*;?", "", value)
            if name in ("d", "x", "y", "transform"):
                value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
            yield name, palette.to_variables(value)
