"""`bequest report RUN... --out FILE.html`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bequest.checkpoints.lineage import command_line
from bequest.checkpoints.model_card import add_results
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import InputError
from bequest.reporting.card import card_markdown, card_metrics
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
    if config.card is not None and not (Path(config.card).expanduser() / "README.md").is_file():
        raise InputError(f"card {config.card} has no README.md; name a model that bequest wrote.")
    if not parsed.dry_run:
        write_report(plan)
        if config.card is not None:
            _write_card(Path(config.card).expanduser(), plan)
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


def _write_card(folder: Path, plan: ReportPlan) -> None:
    add_results(
        folder,
        markdown=card_markdown(plan.runs),
        metrics=card_metrics(plan.runs),
        name=folder.resolve().name,
    )
