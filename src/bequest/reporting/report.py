"""`report`: one HTML file that shows what some commands found."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bequest.errors import BequestError, InputError, StorageError
from bequest.reporting.runs import Run, read_runs
from bequest.results import Section


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `bequest report` is asked to do."""

    runs: tuple[str, ...]
    """Folders with a results.json, in the order in which they are to be read."""
    out: str
    """The HTML file to write, a name that ends in .html."""
    card: str | None = None
    """Folder of a model whose README.md, its model card, gets the most telling of the results."""
    overwrite: bool = False
    """Replace a file that stands at `out`."""


@dataclass(frozen=True, kw_only=True)
class ReportPlan:
    """A report ready to be drawn: everything that goes into it has been read and checked."""

    target: Path
    """The file to write."""
    runs: tuple[Run, ...]
    """What it shows."""

    def summary(self) -> Section:
        """Return what goes into the report, as a table."""
        rows = [
            [
                run.name,
                sum(section.type == "table" for section in run.sections),
                sum(section.type != "table" for section in run.sections),
                run.lineage is not None,
            ]
            for run in self.runs
        ]
        columns = ["run", "tables", "pictures", "lineage"]
        return Section(title="report", type="table", data={"columns": columns, "rows": rows})


def plan_report(config: ReportConfig) -> ReportPlan:
    """Read everything that goes into a report, and refuse what cannot be made one.

    Raises:
        InputError: a run has no results or damaged ones, or is named twice; `out` does not end in
            .html, stands already, or is a folder.
    """
    runs = tuple(read_runs(config.runs))
    target = Path(config.out).expanduser()
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"out is {config.out}; name a file that ends in .html.")
    if target.is_dir():
        raise InputError(f"out is {target}, a folder; name a file in it, such as report.html.")
    if target.exists() and not config.overwrite:
        raise InputError(f"out {target} exists already; choose another name, or --overwrite it.")
    return ReportPlan(target=target, runs=runs)


def write_report(plan: ReportPlan) -> Path:
    """Draw a planned report and write it, whole or not at all.

    Raises:
        BequestError: matplotlib or Jinja2 is not installed.
        StorageError: the file cannot be written.
    """
    try:
        from bequest.reporting.page import render
    except ModuleNotFoundError as error:
        raise BequestError(
            f"a report needs the package {error.name}; install bequest[report]."
        ) from error
    text = render(plan.runs)
    folder = plan.target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{plan.target.name}.", dir=folder) as beside:
            written = Path(beside) / plan.target.name
            with written.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(plan.target)
    except OSError as error:
        raise StorageError(f"cannot write {plan.target}: {error.strerror or error}.") from error
    return plan.target


def report(*runs: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """Show what some commands found in one HTML file that needs no network.

    The same folders give the same bytes.

    Args:
        runs: folders with a `results.json`, in the order in which they are to be read; the
            lineage of those that hold a model (`bequest.json`) is drawn.
        out: the file to write, a name that ends in .html.
        overwrite: replace a file that stands there.

    Returns:
        The file's path.

    Raises:
        InputError: a run has no results or damaged ones, or is named twice; `out` does not end in
            .html, stands already, or is a folder. Nothing was written.
        StorageError: the file cannot be written.
    """
    config = ReportConfig(runs=tuple(map(str, runs)), out=str(out), overwrite=overwrite)
    return write_report(plan_report(config))
