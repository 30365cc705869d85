"""`bequest finetune --config FILE`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from bequest.checkpoints.lineage import command_line
from bequest.cli import finetune_images
from bequest.cli.output import print_json, print_notes, print_table
from bequest.cli.run_arguments import parse_run
from bequest.errors import INTERRUPTED
from bequest.results import results_document
from bequest.training.finetune_config import FinetuneConfig


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest finetune`.
    """
    if finetune_images.is_asked_for(arguments):
        return finetune_images.run(arguments)
    parsed = parse_run(
        FinetuneConfig,
        arguments,
        prog="bequest finetune",
        description="Fine-tune a model and forget less: FLOW and its rivals, with TRL.",
    )
    started = time.monotonic()
    config = parsed.config
    from bequest.training.finetune_config import check_config

    check_config(config)
    from bequest.losses.processes import leave_processes, rank_and_size
    from bequest.training.finetune_plan import plan_finetune

    told = not parsed.quiet and not parsed.as_json
    progress = told and sys.stderr.isatty()
    try:
        plan = plan_finetune(config, progress=progress)
        first = rank_and_size()[0] == 0
        told, progress, as_json = told and first, progress and first, parsed.as_json and first
        from bequest.training.finetune_cost import estimate
        from bequest.training.finetune_results import plan_section

        planned = plan_section(plan, estimate(plan))
        if told:
            print_table(planned)
        if parsed.dry_run:
            if told:
                print("  Nothing was written: dry run.")
            elif as_json:
                print_json(results_document(command_line(), [planned]))
            return 0
        from bequest.training.finetune import finetune

        sections = finetune(plan, progress=progress, told=told)
        if told:
            print_table(sections[0])
            print_notes(
                [
                    f"{plan.target} in {time.monotonic() - started:.1f} s",
                    f"{plan.run} still holds the run's checkpoints.",
                ]
            )
        elif as_json:
            print_json(results_document(command_line(), sections))
    except KeyboardInterrupt:
        print(
            "bequest finetune: interrupted; the same command goes on from the newest checkpoint.",
            file=sys.stderr,
        )
        return INTERRUPTED
    finally:
        leave_processes()
    return 0
