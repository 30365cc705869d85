"""The page: what stands where, in one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bequest import __version__
from bequest.reporting import figures, heatmap, palette
from bequest.reporting.lineage_graph import LineageGraph, Operation, lineage_graph
from bequest.reporting.lineage_picture import draw_lineage
from bequest.reporting.numbers import shown
from bequest.reporting.runs import Run
from bequest.reporting.tables import Table, headline, numbers_of, table, table_of
from bequest.reporting.title import listed, title_of
from bequest.results import ACCOUNT, ACCOUNT_COLUMNS, Section

APPENDED = ("settings", "versions", "cost", ACCOUNT.lower())
"""Titles of the tables that stand at the end, whichever command wrote them."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a heat map's shades mean."""

    shades: tuple[str, ...]
    """CSS variables, lowest first."""
    low: str
    """The lowest value."""
    high: str
    """The highest value."""
    label: str
    """What the values are."""
    gaps: bool
    """Whether some cells have no value."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One section as the page sets it."""

    id: str
    """Its anchor."""
    title: str
    """Its heading."""
    table: Table | None = None
    """A table section's table."""
    pictures: tuple[Markup, ...] = ()
    """The picture, for wide and for narrow windows."""
    legend: tuple[tuple[Markup, str], ...] = ()
    """Signs and names of its series."""
    scale: Scale | None = None
    """A heat map's shades."""
    numbers: Table | None = None
    """The numbers behind the picture."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One run in the summary."""

    id: str
    """Anchor of what the page has on it."""
    name: str
    """The run's name."""
    made: str
    """What it was made from and how, as a sentence; "" if it is no model."""
    command: str
    """The command line."""
    headline: Block | None
    """Its most telling table."""
    blocks: tuple[Block, ...]
    """All else that it found."""


def render(runs: Sequence[Run]) -> str:
    """Write the page of some runs; the same runs give the same bytes."""
    graph = lineage_graph(runs)
    cards = [_card(run, number, graph) for number, run in enumerate(runs, start=1)]
    script = _file("page.js")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(_file("page.html.jinja")).render(
        title=title_of(runs, graph),
        policy=_policy(script),
        style=Markup(_file("page.css")),
        script=Markup(script),
        light=palette.variables("light"),
        dark=palette.variables("dark"),
        cards=cards,
        lineage=draw_lineage(graph, "lineage", "lineage-title") if graph.models else None,
        told=_told(graph),
        appendix=list(_appendix(runs, graph)),
        version=__version__,
    )


def _policy(script: str) -> str:
    """Let the browser itself refuse every address, and every script but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _file(name: str) -> str:
    return files("bequest.reporting").joinpath(name).read_text(encoding="utf-8")


def _card(run: Run, number: int, graph: LineageGraph) -> Card:
    run_id = f"run-{number}"
    shown_later = [one for one in run.sections if one.title.lower() not in APPENDED]
    most_telling = headline(shown_later)
    blocks = [
        _block(section, f"{run_id}-{place}")
        for place, section in enumerate(shown_later, start=1)
        if section is not most_telling
    ]
    return Card(
        id=run_id,
        name=run.name,
        made=_made(run, graph),
        command=run.command,
        headline=None if most_telling is None else _block(most_telling, f"{run_id}-headline"),
        blocks=tuple(blocks),
    )


def _made(run: Run, graph: LineageGraph) -> str:
    if run.lineage is None:
        return ""
    operation = graph.maker(graph.reported[run.name])
    if operation is None:
        return ""
    sources = _sources(operation, graph)
    return f"Made by {operation.name} from {sources}." if sources else f"Made by {operation.name}."


def _sources(operation: Operation, graph: LineageGraph) -> str:
    names = list(dict.fromkeys(graph.models[key].name for _, key in operation.inputs))
    return listed(names)


def _told(graph: LineageGraph) -> list[str]:
    """Say the lineage in sentences, for readers who do not see the picture."""
    sentences = []
    for one in graph.operations.values():
        sources = _sources(one, graph)
        told = f"{one.name} of {sources}" if sources else one.name
        sentences.append(f"{graph.models[one.output].name}: {told}.")
    return sentences


def _block(section: Section, block_id: str) -> Block:
    if section.type == "table":
        return Block(id=block_id, title=section.title, table=table_of(section))
    if figures.is_empty(section):
        return Block(id=block_id, title=section.title)
    if not figures.is_drawable(section):
        return Block(id=block_id, title=section.title, table=numbers_of(section))
    drawn = figures.draw(section, f"{block_id}-picture", f"{block_id}-title")
    return Block(
        id=block_id,
        title=section.title,
        pictures=tuple(drawn.values()),
        legend=tuple(figures.legend(section)),
        scale=_scale(section) if section.type == "heatmap" else None,
        numbers=numbers_of(section),
    )


def _scale(section: Section) -> Scale:
    values = section.data["values"]
    low, high, diverging = heatmap.limits(values)
    name = "--diverge" if diverging else "--heat"
    return Scale(
        shades=tuple(f"{name}-{number}" for number in range(palette.NUM_STEPS)),
        low=shown(low),
        high=shown(high),
        label=section.data["value_label"],
        gaps=any(value is None for row in values for value in row),
    )


def _appendix(runs: Sequence[Run], graph: LineageGraph) -> Iterator[Block]:
    """What was asked, what it took and by which versions, of every operation and every run."""
    number = 0
    accounts = {graph.reported[run.name]: _account(run) for run in runs if run.lineage is not None}
    for operation in graph.operations.values():
        number += 1
        settings, cost = accounts.get(operation.output, ([], []))
        # What was given, where that is less than all that the lineage tells.
        if not 0 < len(settings) < len(operation.settings):
            settings = [list(row) for row in operation.settings]
        rows = [*settings, ["made", operation.created], ["command", operation.command], *cost]
        yield Block(
            id=f"appendix-{number}",
            title=f"{graph.models[operation.output].name}: {operation.name}",
            table=table(["setting", "value"], [row for row in rows if row[1] not in (None, "")]),
        )
    for run in runs:
        settings, cost = _account(run)
        if run.lineage is None and (settings or cost):
            number += 1
            rows = [*settings, ["command", run.command], *cost]
            yield Block(
                id=f"appendix-{number}",
                title=run.name,
                table=table(["setting", "value"], [row for row in rows if row[1] is not None]),
            )
        for section in run.sections:
            if section.title.lower() in APPENDED and not _is_account(section):
                number += 1
                block = _block(section, f"appendix-{number}")
                yield Block(**{**vars(block), "title": f"{run.name}: {section.title.lower()}"})
    versions = _versions(runs, graph)
    if versions is not None:
        yield Block(id="appendix-versions", title="Versions", table=versions)


def _account(run: Run) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return the settings that were given and the cost, from the end of a run's results."""
    return _rows_of(run, "setting"), _rows_of(run, "cost")


def _rows_of(run: Run, kind: str) -> list[list[Any]]:
    tables = (one.data["rows"] for one in run.sections if _is_account(one))
    return [list(row[1:]) for rows in tables for row in rows if row[0] == kind]


def _is_account(section: Section) -> bool:
    return section.title == ACCOUNT and list(section.data.get("columns", ())) == ACCOUNT_COLUMNS


def _versions(runs: Sequence[Run], graph: LineageGraph) -> Table | None:
    """One row a package; one column, or one for those alike where they differ."""
    used: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for one in graph.operations.values():
        if one.versions:
            used.setdefault(tuple(one.versions.items()), []).append(graph.models[one.output].name)
    for run in runs:
        told = _rows_of(run, "version")
        if told and run.lineage is None:
            used.setdefault(tuple((str(name), str(n)) for name, n in told), []).append(run.name)
    if not used:
        return None
    columns = [", ".join(names) for names in used.values()] if len(used) > 1 else ["version"]
    packages = dict.fromkeys(package for found in used for package, _ in found)
    found: list[Mapping[str, str]] = [dict(one) for one in used]
    return table(
        ["package", *columns], [[name, *(one.get(name) for one in found)] for name in packages]
    )
