"""The most telling results as Markdown, for a model card: the same numbers as the report's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bequest.reporting.runs import Run
from bequest.reporting.tables import Table, headline, table_of
from bequest.results import Section

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")


def card_markdown(runs: Sequence[Run]) -> str:
    """Write the headline table of each run, and its tables of metrics, as Markdown blocks.

    Args:
        runs: in the order in which they are to be read.
    """
    blocks = ["## Results"]
    for run in runs:
        for section in _telling(run.sections):
            blocks += [f"### {_plain(section.title)}", _written(table_of(section))]
            blocks.append(f"Found by {_code(run.command)}.")
    return "\n\n".join(blocks)


def card_metrics(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """Return the metrics of all runs' tables, for a card's `model-index`."""
    tables = (one for run in runs for one in run.sections if one.type == "table")
    return [metric for one in tables for metric in one.data.get("metrics", ())]


def _telling(sections: Sequence[Section]) -> list[Section]:
    first = headline(sections)
    return [
        one for one in sections if one is first or (one.type == "table" and one.data.get("metrics"))
    ]


def _written(table: Table) -> str:
    if len(table.columns) == 1 and len(table.rows) == 1:
        return _plain(table.rows[0][0].text)
    head = _row([_plain(name) for name in table.columns])
    rule = _row(["--:" if numeric else "---" for numeric in table.numeric])
    return "\n".join([head, rule, *(_row([_plain(one.text) for one in row]) for row in table.rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\1", text)


def _code(text: str) -> str:
    """Text set as code, whatever accents it holds; it cannot end the comment marks around it."""
    text = " ".join(text.split())
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text.replace('<!--', '< !--').replace('-->', '-- >')}{pad}{fence}"
