"""Colours by their role: matplotlib draws with stand-ins, the page's style sheet gives them values.

A stand-in is a colour that nothing else uses; in the finished SVG each becomes a CSS variable, so
that one picture serves the light page, the dark one and print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from markupsafe import Markup

Theme = Literal["light", "dark"]
NUM_SERIES = 8
"""Colours of series; a ninth series has the first one's colour and another dash and marker."""
NUM_STEPS = 17
"""Shades of a heat map."""

INK, MUTED, RULE, PAPER = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
SOLID = ("#2f7fbf", "#d2691e", "#1f9e77", "#b5659a", "#a98418", "#5b7fd1", "#8a8a8a", "#c0504d")
"""Series' colours where a picture has to be pixels, seen on light and on dark."""
_ROLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"}
SERIES = tuple(f"#fe01{number:02x}" for number in range(NUM_SERIES))
_ROLES |= {colour: f"--series-{number + 1}" for number, colour in enumerate(SERIES)}
SEQUENTIAL = tuple(f"#fe02{number:02x}" for number in range(NUM_STEPS))
_ROLES |= {colour: f"--heat-{number}" for number, colour in enumerate(SEQUENTIAL)}
DIVERGING = tuple(f"#fe03{number:02x}" for number in range(NUM_STEPS))
_ROLES |= {colour: f"--diverge-{number}" for number, colour in enumerate(DIVERGING)}
ON_SEQUENTIAL = tuple(f"#fe04{number:02x}" for number in range(NUM_STEPS))
ON_DIVERGING = tuple(f"#fe05{number:02x}" for number in range(NUM_STEPS))
"""What is written on each shade."""
_ROLES |= {colour: f"--on-heat-{number}" for number, colour in enumerate(ON_SEQUENTIAL)}
_ROLES |= {colour: f"--on-diverge-{number}" for number, colour in enumerate(ON_DIVERGING)}

DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.8), (7, 2, 1.5, 2))
MARKERS = "osD^vPX*"


def series_colour(number: int) -> str:
    """The stand-in for a series' colour."""
    return SERIES[number % NUM_SERIES]


def series_dashes(number: int) -> tuple[float, ...]:
    """Lengths of a series' dashes and gaps in line widths; () for a solid line."""
    return DASHES[(number + number // NUM_SERIES) % len(DASHES)]


def series_marker(number: int) -> str:
    """A series' marker in matplotlib's letters."""
    return MARKERS[(number + number // NUM_SERIES) % len(MARKERS)]


def to_variables(style: str) -> str:
    """Replace the stand-ins in a style by the page's variables."""
    return re.sub(
        "#fe[0-9a-f]{4}",
        lambda found: f"var({_ROLES[found[0]]})" if found[0] in _ROLES else found[0],
        style,
    )


COLOURS: Mapping[Theme, Mapping[str, str]] = {
    "light": {
        "--paper": "#ffffff",
        "--panel": "#f6f7f9",
        "--tint": "#eaf1f8",
        "--ink": "#1b1f24",
        "--muted": "#59636e",
        "--rule": "#dde2e7",
        "--accent": "#0f5ea8",
    },
    "dark": {
        "--paper": "#14171a",
        "--panel": "#1c2024",
        "--tint": "#1b2a39",
        "--ink": "#e7e9ec",
        "--muted": "#a3adb8",
        "--rule": "#343b43",
        "--accent": "#7db9f0",
    },
}
"""The page's colours; text keeps a contrast of at least 4.5 to what it stands on."""

# Okabe and Ito's colours, told apart by colour-blind readers too, moved in lightness until each
# stands out from the page by a contrast of 3 or more. Their order puts the farthest apart first.
_SERIES_COLOURS: Mapping[Theme, Sequence[str]] = {
    "light": (
        "#0072b2",
        "#c4560a",
        "#008764",
        "#a94f8b",
        "#8a6d00",
        "#3d8fc9",
        "#5c6670",
        "#8c3b2e",
    ),
    "dark": (
        "#56b4e9",
        "#f0883e",
        "#35c79c",
        "#e79cc6",
        "#e6c34a",
        "#8fa8ff",
        "#b7bfc7",
        "#e07a6a",
    ),
}
_STOPS: Mapping[str, Mapping[Theme, Sequence[str]]] = {
    "--heat": {
        "light": ("#dfe9f3", "#9cc4e2", "#3c84bd", "#0f3d6b"),
        "dark": ("#273442", "#22567f", "#449bd2", "#dcf0fd"),
    },
    "--diverge": {
        "light": ("#0f4f8c", "#7fb3da", "#f1f1ef", "#e6a169", "#9c4200"),
        "dark": ("#8ccbfb", "#2f6ea3", "#262a2f", "#a85a1d", "#ffb67d"),
    },
}


def variables(theme: Theme) -> Markup:
    """Write a theme's colours as CSS declarations."""
    values = dict(COLOURS[theme])
    values |= {f"--series-{n + 1}": one for n, one in enumerate(_SERIES_COLOURS[theme])}
    for name, stops in _STOPS.items():
        for number, shade in enumerate(_shades(stops[theme])):
            values[f"{name}-{number}"] = shade
            inks = (values["--ink"], values["--paper"])
            written = max(inks, key=lambda ink: contrast(ink, shade))
            values[f"--on{name[1:]}-{number}"] = written
    return Markup("; ".join(f"{name}: {value}" for name, value in values.items()))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _shades(stops: Sequence[str]) -> list[str]:
    """Spread shades evenly between a few given ones."""
    channels = [[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops]
    shades = []
    for number in range(NUM_STEPS):
        place = number / (NUM_STEPS - 1) * (len(stops) - 1)
        left = min(int(place), len(stops) - 2)
        mixed = [
            round(one + (other - one) * (place - left))
            for one, other in zip(channels[left], channels[left + 1], strict=True)
        ]
        shades.append("#" + "".join(f"{value:02x}" for value in mixed))
    return shades


_MARKER_PATHS = {
    "o": "M18 8a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M18.5 4.5h7v7h-7z",
    "D": "M22 3.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
    "^": "M22 3.5l4.5 8h-9z",
    "v": "M22 12.5l4.5-8h-9z",
    "P": "M20.5 4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "X": "M18.5 6l2-2l1.5 1.7l1.5-1.7l2 2l-1.7 2l1.7 2l-2 2l-1.5-1.7l-1.5 1.7l-2-2l1.7-2z",
    "*": "M22 3l1.4 3.3l3.6.3l-2.7 2.4l.8 3.5l-3.1-1.9l-3.1 1.9l.8-3.5l-2.7-2.4l3.6-.3z",
}


def swatch(number: int, *, line: bool, marker: bool) -> Markup:
    """Draw a series' sign for a legend: its dash, its marker, or both."""
    colour = f"var(--series-{number % NUM_SERIES + 1})"
    dashes = " ".join(f"{1.8 * length:g}" for length in series_dashes(number))
    parts = ['<svg class="swatch" viewBox="0 0 44 16" aria-hidden="true" focusable="false">']
    if line:
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<path d="M1 8H43" fill="none" style="stroke: {colour}"{dash}/>')
    if marker:
        path = _MARKER_PATHS[series_marker(number)]
        parts.append(f'<path d="{path}" style="fill: {colour}; stroke: none"/>')
    return Markup("".join([*parts, "</svg>"]))
