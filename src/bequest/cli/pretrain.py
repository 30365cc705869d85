"""`bequest pretrain --config FILE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import INTERRUPTED
from bequest.results import ACCOUNT, results_document
from bequest.training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from bequest.training.pretrain_plan import PretrainPlan


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest pretrain`.
    """
    parser = build_parser(
        PretrainConfig,
        prog="bequest pretrain",
        description="Train a causal language model on text: `bequest pretrain --config run.yaml`.",
    )
    parsed = parser.parse_args(list(arguments))
    config = to_config(PretrainConfig, parsed)
    # Its time is that of importing torch: long enough to be told.
    from bequest.losses.processes import leave_processes

    try:
        return _carry_out(config, parsed)
    finally:
        # The trainer's arguments form the group, which is why a refused run has one, too.
        leave_processes()


def _carry_out(config: PretrainConfig, parsed: Namespace) -> int:
    first = os.environ.get("RANK", "0") == "0"
    told = first and not parsed.quiet and not parsed.json
    progress = told and sys.stderr.isatty()
    from bequest.training.pretrain import run_pretrain
    from bequest.training.pretrain_plan import plan_pretrain
    from bequest.training.pretrain_results import planned_section

    plan = plan_pretrain(config)
    if told:
        print_table(planned_section(plan))
        print_notes(plan.resume.notes)
    if parsed.dry_run:
        if told:
            print("  Nothing was written: dry run.")
        elif parsed.json and first:
            print_json(results_document(command_line(), [planned_section(plan)]))
        return 0
    try:
        result = run_pretrain(plan, progress=progress, print_logs=told and not progress)
    except KeyboardInterrupt:
        print(f"bequest pretrain: interrupted; {_goes_on(plan)}", file=sys.stderr)
        return INTERRUPTED
    if told:
        for section in result.sections:
            if section.type == "table" and section.title != ACCOUNT:
                print(f"\n  {section.title}")
                print_table(section)
        print()
        print_notes([*result.notes, f"{result.folder} in {result.seconds:.1f} s"])
    elif parsed.json and first:
        print_json(results_document(command_line(), result.sections))
    return 0


def _goes_on(plan: PretrainPlan) -> str:
    from bequest.checkpoints.run import step_of
    from bequest.training.run_folder import newest_complete

    checkpoint, _ = newest_complete(plan.run, plan.arguments.world_size)
    step = step_of(checkpoint.name) if checkpoint is not None else 0
    after = f"after step {step}" if step else "from the beginning, for there is no checkpoint yet"
    return f"the same command goes on {after}."
