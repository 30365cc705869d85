"""`bequest report RUN... --out FILE.html`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.lineage import command_line
from bequest.checkpoints.model_card import add_results
from bequest.checkpoints.model_identity import model_identity
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import InputError
from bequest.reporting.card import card_markdown, judged_models, results_of
from bequest.reporting.report import ReportConfig, ReportPlan, plan_report, write_report
from bequest.results import results_document


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest report`.
    """
    parser = build_parser(
        ReportConfig,
        prog="bequest report",
        description="Show what other commands found, from their results.json, in one HTML file.",
        positionals=("runs",),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    config = to_config(ReportConfig, parsed)
    plan = plan_report(config)
    card = None if config.card is None else _Card(Path(config.card).expanduser(), plan)
    if not parsed.dry_run:
        write_report(plan)
        if card is not None:
            card.write()
    if parsed.json:
        print_json(results_document(command_line(), [plan.summary()]))
    elif not parsed.quiet:
        print_table(plan.summary())
        if parsed.dry_run:
            print_notes(["Nothing was written: dry run."])
        else:
            size = plan.target.stat().st_size
            seconds = time.monotonic() - started
            print_notes([f"{plan.target}, {size:,} bytes, in {seconds:.1f} s"])
    return 0


class _Card:
    """What goes into a model's card, known before anything is written."""

    def __init__(self, folder: Path, plan: ReportPlan) -> None:
        if not (folder / "README.md").is_file():
            raise InputError(f"card {folder} has no README.md; name a model that bequest wrote.")
        self._folder = folder
        identity = None
        if judged_models(plan.runs):
            identity = model_identity(open_checkpoint(folder, field="card"))
        self._runs, self._metrics = results_of(plan.runs, folder=folder, identity=identity)

    def write(self) -> None:
        add_results(
            self._folder,
            markdown=card_markdown(self._runs),
            metrics=self._metrics,
            name=self._folder.resolve().name,
        )
