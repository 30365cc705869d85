"""What a report is called: its runs by name or, where they are many, what became of which model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bequest.reporting.lineage_graph import LineageGraph
from bequest.reporting.runs import Run

_MOST_NAMES = 4
_MOST_MODELS = 2
_COMMAND = re.compile(r"(?:\S*/)?bequest ([a-z]+)(?: |$)")
_FROM = ("source", "start", "model", "student")
"""Roles of the model that an operation changes; others, such as a teacher or data, it only reads."""


def title_of(runs: Sequence[Run], graph: LineageGraph) -> str:
    """Return the title of a report.

    Args:
        runs: what it shows.
        graph: their lineage.
    """
    names = [run.name for run in runs]
    if len(names) <= _MOST_NAMES:
        return listed(names)
    began = list(dict.fromkeys(_beginnings(graph)))
    subject = listed(began) if len(began) <= _MOST_MODELS else f"{len(began)} models"
    done = ", ".join(dict.fromkeys(word for run in runs if (word := _command(run))))
    return ": ".join([part for part in (subject, done) if part] or [f"{len(runs)} results"])


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them, such as "one, two and three"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _beginnings(graph: LineageGraph) -> Iterator[str]:
    """Name the model that each of the report's models began as, as far as that is known."""
    for key in graph.reported.values():
        first = key
        while (made := graph.maker(first)) is not None:
            before = [found for role, found in made.inputs if role in _FROM]
            if not before:
                break
            first = before[0]
        else:
            yield graph.models[first].name


def _command(run: Run) -> str:
    found = _COMMAND.match(run.command)
    if found is not None:
        return found[1]
    return "" if run.lineage is None else str(run.lineage["operation"])
