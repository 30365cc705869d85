"""README's picture of the three methods, drawn from the numbers of RESULTS.md.

python -m experiments.picture
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "methods.svg"
RESULTS = ROOT / "experiments" / "RESULTS.md"
RANKS = (
    *(22.5, 37.2, 36.2, 8.1, 4.9, 29.4, 13.0, 7.2, 3.1, 12.2, 26.1, 50.5, 33.4, 15.1, 3.5),
    *(11.2, 48.5, 23.1, 13.0, 30.2, 10.0, 5.8, 22.0, 1.4, 1.1, 6.4, 9.5, 17.6, 14.4, 35.4),
)
"""MaxRank of SmolLM2-135M's blocks, 8 sequences of 64 tokens of the Brown corpus (`make demo`)."""
KEPT = 15
TUNED = ("standard", "L2", "LoRA", "FLOW", "FLOW + WiSE-FT")
WIDTH, HEIGHT, PANEL, GAP = 880, 268, 272, 32
TOP, BOTTOM = 74.0, 206.0

STYLE = """\
text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#57606a}
.head{font-size:15px;font-weight:600;fill:#1f2328}
.ink{fill:#1f2328}
.one{fill:#0072b2;stroke:#0072b2}.two{fill:#c45500;stroke:#c45500}.rest{fill:#d0d7de}
.line{fill:none;stroke-width:2}.axis{stroke:#8c959f;stroke-width:1}
text.one,text.two{stroke:none}
@media (prefers-color-scheme:dark){text{fill:#9198a1}.head,.ink{fill:#f0f6fc}
.one{fill:#56b4e9;stroke:#56b4e9}.two{fill:#f0a040;stroke:#f0a040}.rest{fill:#3d444d}
.axis{stroke:#656c76}}"""


def rows_of(page: str, after: str, columns: int) -> Iterator[list[str]]:
    """Yield the cells of the first table behind a text; of its rows those with enough cells."""
    started = False
    for line in page[page.index(after) :].splitlines():
        if line.startswith("|"):
            started = True
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) >= columns and not set("".join(cells)) <= set("-: "):
                yield cells
        elif started:
            return


def number(cell: str) -> float:
    """Read the number that a cell begins with."""
    found = re.match(r"[-+]?[\d.]+", cell)
    if found is None:
        raise ValueError(f"{cell!r} begins with no number")
    return float(found[0])


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """Set a line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}">{words}</text>'


def panel(left: float, head: str, sentence: str, foot: str) -> Iterator[str]:
    """A panel's words and its axis."""
    yield text(left, 18, head, "head")
    yield text(left, 38, sentence)
    yield f'<path class="axis" d="M{left:g} {BOTTOM:g}h{PANEL:g}"/>'
    yield text(left, HEIGHT - 8, foot)


def inherit(left: float) -> Iterator[str]:
    """Blocks as bars, those that are kept in colour."""
    yield from panel(
        left,
        "Inheritune: cut",
        "the first blocks, their embedding and head",
        "attention rank of SmolLM2-135M's 30 blocks",
    )
    step = PANEL / len(RANKS)
    for block, rank in enumerate(RANKS):
        height = (BOTTOM - TOP) * rank / max(RANKS)
        css = "one" if block < KEPT else "rest"
        yield (
            f'<rect class="{css}" stroke="none" style="stroke:none" x="{left + block * step:.1f}" '
            f'y="{BOTTOM - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"/>'
        )
    yield text(left, BOTTOM + 17, f"blocks 0-{KEPT - 1}: inherited", "one")
    yield text(left + PANEL, BOTTOM + 17, "left behind", "", "end")


def average(left: float, page: str) -> Iterator[str]:
    """Held-out loss along a run, raw and averaged."""
    table = list(rows_of(page, "## Averages along one run", 4))
    steps = [number(cell.removeprefix("step ")) for cell in table[0][1:]]
    lines = {row[0]: list(map(number, row[1:])) for row in table if row[0] in ("raw", "lawa")}
    yield from panel(
        left,
        "LAWA: average",
        "the latest snapshots of a running training",
        f"held-out loss of a small decoder, steps {steps[0]:g} to {steps[-1]:g}",
    )
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)

    def place(step: float, value: float) -> tuple[float, float]:
        across = left + 20 + (PANEL - 40) * (step - steps[0]) / (steps[-1] - steps[0])
        return across, BOTTOM - 16 - (BOTTOM - TOP - 30) * (value - low) / (high - low)

    for name, css in (("raw", "two"), ("lawa", "one")):
        spots = [place(*pair) for pair in zip(steps, lines[name], strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        yield f'<path class="line {css}" style="fill:none" d="M{path}"/>'
        yield from (f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in spots)
    middle = place(steps[1], lines["raw"][1])
    yield text(middle[0] + 8, middle[1] - 8, f"raw {lines['raw'][1]:.3f}", "two")
    below = place(steps[1], lines["lawa"][1])
    yield text(below[0] - 8, below[1] + 18, f"averaged {lines['lawa'][1]:.3f}", "one", "end")
    constant, end = place(steps[1], low)[0], place(steps[2], low)[0]
    yield text(constant - 6, BOTTOM + 17, "constant learning rate", "", "end")
    yield text(end + 10, BOTTOM + 17, "decay", "", "end")


def weigh(left: float, page: str) -> Iterator[str]:
    """What was learned against what was forgotten, by method."""
    rows = list(rows_of(page, "Change from before training, rate 0.0005", 8))
    at = {name: (rows[0].index(name)) for name in ("target", "brown")}
    found = {row[0]: (number(row[at["brown"]]), -number(row[at["target"]])) for row in rows[2:]}
    points = {name: found[name] for name in TUNED}
    yield from panel(
        left,
        "FLOW: weigh",
        "samples that the model finds easy count more",
        "five ways to fine-tune SmolLM2-135M, two seeds",
    )
    most = max(abs(x) for x, _ in points.values())
    highest, lowest = max(y for _, y in points.values()), min(y for _, y in points.values())
    middle = left + PANEL * 0.3
    yield f'<path class="axis" d="M{middle:g} {TOP - 16:g}V{BOTTOM:g}"/>'
    yield text(left, TOP - 8, "up: learned")
    for name, (forgotten, learned) in points.items():
        x = middle + forgotten / most * PANEL * 0.48
        y = BOTTOM - 20 - (BOTTOM - TOP - 30) * (learned - lowest) / (highest - lowest)
        css = "one" if name.startswith("FLOW") else "two"
        yield f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        yield text(x + 9, y + 4, name, css)
    yield text(left + PANEL, BOTTOM + 17, "right: Brown corpus forgotten", "", "end")


def draw(page: str) -> str:
    """Return the picture as SVG that follows the reader's light or dark theme.

    Args:
        page: the text of RESULTS.md.
    """
    lefts = [number * (PANEL + GAP) for number in range(3)]
    parts: Sequence[str] = [*inherit(lefts[0]), *average(lefts[1], page), *weigh(lefts[2], page)]
    title = "Three methods: cut a model, average a run, weigh fine-tuning data"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    FIGURE.write_text(draw(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
