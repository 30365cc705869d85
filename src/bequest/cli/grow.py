"""`bequest grow STUDENT TEACHER OUT --layers N`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bequest.cli.arguments import build_parser, to_config
from bequest.cli.planned import run_plan
from bequest.inheritance.grow import GrowConfig, plan_grow


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest grow`.
    """
    parser = build_parser(
        GrowConfig,
        prog="bequest grow",
        description="Append the teacher's next blocks to a student that was cut from it.",
        positionals=("student", "teacher", "out"),
        flags={"from_block": "--from"},
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    plan = plan_grow(to_config(GrowConfig, parsed))
    return run_plan(
        plan, started=started, dry_run=parsed.dry_run, quiet=parsed.quiet, as_json=parsed.json
    )
