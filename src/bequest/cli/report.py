"""`bequest report RUN... --out FILE.html`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.reporting.report import ReportConfig, plan_report, write_report
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
    plan = plan_report(to_config(ReportConfig, parsed))
    if not parsed.dry_run:
        write_report(plan)
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
