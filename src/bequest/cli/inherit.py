"""`bequest inherit SOURCE OUT --layers SPEC`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bequest.cli.arguments import build_parser, to_config
from bequest.cli.planned import run_plan
from bequest.inheritance.inherit import InheritConfig, plan_inherit


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest inherit`.
    """
    parser = build_parser(
        InheritConfig,
        prog="bequest inherit",
        description="Cut a smaller model out of a bigger one: chosen blocks, embeddings, head.",
        positionals=("source", "out"),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    plan = plan_inherit(to_config(InheritConfig, parsed))
    return run_plan(
        plan, started=started, dry_run=parsed.dry_run, quiet=parsed.quiet, as_json=parsed.json
    )
