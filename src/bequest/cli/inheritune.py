"""`bequest inheritune --config FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import INTERRUPTED
from bequest.results import results_document
from bequest.training.inheritune_config import InherituneConfig


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest inheritune`.
    """
    parser = build_parser(
        InherituneConfig,
        prog="bequest inheritune",
        description="Inherit, train, compare with the reference, grow: until the student matches.",
    )
    parsed = parser.parse_args(list(arguments))
    config = to_config(InherituneConfig, parsed)
    told = not parsed.quiet and not parsed.json
    from bequest.training.inheritune import run_inheritune
    from bequest.training.inheritune_cost import cost_section
    from bequest.training.inheritune_plan import plan_inheritune

    plan = plan_inheritune(config)
    planned = [plan.section(), cost_section(plan)]
    if told:
        print_table(planned[0])
        print()
        print_table(planned[1])
    if parsed.dry_run:
        if told:
            print("  Nothing was written: dry run.")
        elif parsed.json:
            print_json(results_document(command_line(), planned))
        return 0

    def report(sentence: str) -> None:
        if told:
            print(f"  {sentence}", flush=True)

    try:
        result = run_inheritune(plan, report=report, progress=told and sys.stderr.isatty())
    except KeyboardInterrupt:
        print(
            "bequest inheritune: interrupted; the same command goes on from here.", file=sys.stderr
        )
        return INTERRUPTED
    if told:
        print()
        print_table(result.sections[0])
        print()
        place = result.rounds[-1].folder if result.rounds else config.folder
        print_notes([result.reason, str(place)])
    elif parsed.json:
        print_json(results_document(command_line(), result.sections))
    return 0
