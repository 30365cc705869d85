"""The most telling results for a model's card: the same numbers as the report's, and its alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest.errors import InputError
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


def judged_models(runs: Sequence[Run]) -> set[str]:
    """Return the hashes of all models that the runs' metrics are of."""
    return {metric["model"] for run in runs for metric in _metrics(run) if "model" in metric}


def results_of(
    runs: Sequence[Run], *, folder: Path, identity: str | None
) -> tuple[list[Run], list[Mapping[str, Any]]]:
    """Pick what may stand in one model's card.

    Args:
        runs: the report's.
        folder: the model's.
        identity: its hash, as in the metrics' `model`; None if no metric names one.

    Returns:
        The runs that judge no model or this one among others, and the metrics of this one, for its
        `model-index`. A metric without `model` is of the model in whose folder it was found.

    Raises:
        InputError: the runs judge models, but not this one.
    """
    home = folder.resolve()
    kept: list[Run] = []
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    judged = False
    for run in runs:
        metrics = list(_metrics(run))
        own = [
            one
            for one in metrics
            if (one["model"] == identity if "model" in one else run.folder == home)
        ]
        judged = judged or bool(metrics)
        if own or not metrics:
            kept.append(run)
        # The same score of two comparisons is one.
        keys = ("task", "dataset", "metric", "value")
        found |= {tuple(one[key] for key in keys): one for one in own}
    if judged and not found:
        raise InputError(
            f"card {folder} is of a model that none of the runs' scores are of, as it is now; "
            "evaluate it, or name the card of a model that was."
        )
    return kept, list(found.values())


def _metrics(run: Run) -> Iterator[Mapping[str, Any]]:
    for section in run.sections:
        if section.type == "table":
            yield from section.data.get("metrics", ())


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
