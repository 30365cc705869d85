"""`bequest diagnose MODEL --texts FILE --out DIR`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table, print_written
from bequest.errors import INTERRUPTED, InputError
from bequest.inheritance.diagnose_plan import DiagnoseConfig, DiagnosePlan, plan_diagnose
from bequest.results import Section, results_document


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest diagnose`.
    """
    parser = build_parser(
        DiagnoseConfig,
        prog="bequest diagnose",
        description="See attention collapse: which blocks are lazy, and how deep to inherit.",
        positionals=("model",),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    config = to_config(DiagnoseConfig, parsed)
    if config.out is None:
        raise InputError("out is missing; name the folder for results.json.")
    told = not parsed.quiet and not parsed.json
    from bequest.evaluation.held_out import read_texts

    plan = plan_diagnose(config, read_texts(config.texts))
    if parsed.dry_run:
        if parsed.json:
            print_json(results_document(command_line(), [_planned(plan)]))
        elif told:
            print_table(_planned(plan))
            print("  Nothing was written: dry run.")
        return 0
    if told:
        print_notes([_estimate(plan)])
        sys.stdout.flush()
    from bequest.inheritance.diagnose import carry_out

    try:
        diagnosis = carry_out(plan, progress=told and sys.stderr.isatty())
    except KeyboardInterrupt:
        print("bequest diagnose: interrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    sections = diagnosis.sections()
    if parsed.json:
        print_written(config.out)
    elif told:
        blocks, summary = sections[1], sections[0]
        print_table(blocks)
        print()
        print_table(summary)
        print_notes([f"{config.out} in {time.monotonic() - started:.1f} s"])
    return 0


def _planned(plan: DiagnosePlan) -> Section:
    seconds, num_bytes = plan.cost()
    config = plan.config
    rows: list[list[str | int | float]] = [
        ["model", plan.location.name],
        ["parameters", plan.num_parameters],
        ["blocks", plan.num_layers],
        ["sequences", config.sequences],
        ["tokens of a sequence", config.length],
        ["sequences for the loss without a block", config.leave_one_out_sequences]
        if config.leave_one_out
        else ["loss without a block", "not asked for (--leave-one-out)"],
        ["estimated time (seconds)", seconds],
        ["memory (GB)", num_bytes / 1e9],
    ]
    return Section(title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows})


def _estimate(plan: DiagnosePlan) -> str:
    seconds, num_bytes = plan.cost()
    return (
        f"{plan.config.sequences:,} sequences of {plan.config.length:,} tokens through "
        f"{plan.num_layers} blocks: about {max(1, round(seconds)):,} s and {num_bytes / 1e9:.2g} GB."
    )
