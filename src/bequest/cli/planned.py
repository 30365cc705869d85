"""Show an inheritance's plan, carry it out, and say what came of it."""

from __future__ import annotations

import sys
import time

from bequest.checkpoints.lineage import command_line
from bequest.cli.output import print_json, print_notes, print_table, print_written
from bequest.inheritance.build import build, summary, verify
from bequest.inheritance.plan import InheritancePlan
from bequest.inheritance.selection import describe_layers
from bequest.results import results_document


def run_plan(
    plan: InheritancePlan, *, started: float, dry_run: bool, quiet: bool, as_json: bool
) -> int:
    """Verify a plan, carry it out unless it is a dry run, and print it.

    Args:
        plan: from `plan_inherit` or `plan_grow`.
        started: `time.monotonic()` when the command began.
        dry_run: stop before a byte is written.
        quiet: print nothing.
        as_json: print the results as JSON instead of a table.

    Returns:
        The exit code.
    """
    if dry_run:
        verify(plan)
    else:
        build(plan, progress=not quiet and not as_json and sys.stderr.isatty())
    seconds = time.monotonic() - started
    if as_json and not dry_run:
        print_written(plan.target)
    elif as_json:
        print_json(results_document(command_line(), [summary(plan)]))
    elif not quiet:
        print_table(summary(plan))
        print(f"  blocks  {describe_layers(plan.source_blocks)} of the {plan.blocks_from}")
        for field, value in plan.changes.items():
            print(f"  config  {field} = {'removed' if value is None else value}")
        for name in plan.reinitialized:
            print(f"  drawn   {name}")
        for shard in plan.shards if dry_run else ():
            print(f"  file    {shard.file_name}  {len(shard.header) + shard.num_bytes:,} bytes")
        print_notes(plan.notes)
        done = "Nothing was written: dry run." if dry_run else f"{plan.target} in {seconds:.1f} s"
        print(f"  {done}")
    return 0
