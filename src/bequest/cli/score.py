"""`bequest score MODEL DATA OUT.parquet`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import INTERRUPTED, InputError
from bequest.results import ACCOUNT, Section, results_document
from bequest.training.score_plan import ScoreConfig, ScorePlan, plan_score


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest score`.
    """
    parser = build_parser(
        ScoreConfig,
        prog="bequest score",
        description="Score a data set for FLOW: every sample's loss under the pre-trained model.",
        positionals=("model", "data", "out"),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    config = to_config(ScoreConfig, parsed)
    if config.out is None:
        raise InputError("out is missing; name the score file, such as scores.parquet.")
    told = not parsed.quiet and not parsed.json
    progress = told and sys.stderr.isatty()
    plan = plan_score(config, progress=progress)

    from bequest.losses.processes import rank_and_size

    told = told and rank_and_size()[0] == 0
    if parsed.dry_run:
        if told:
            print_table(_planned(plan))
            print("  Nothing was written: dry run.")
        elif parsed.json:
            print_json(results_document(command_line(), [_planned(plan)]))
        return 0
    if told:
        print_notes([_estimate(plan)])
    from bequest.training.score import carry_out

    try:
        _, sections = carry_out(plan, progress=progress)
    except KeyboardInterrupt:
        print("bequest score: interrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    if told:
        for section in sections:
            if section.type == "table" and section.title != ACCOUNT:
                print(f"\n  {section.title}")
                print_table(section)
        print()
        print_notes([f"{config.out} in {time.monotonic() - started:.1f} s"])
    elif parsed.json and rank_and_size()[0] == 0:
        print_json(results_document(command_line(), sections))
    return 0


def _planned(plan: ScorePlan) -> Section:
    seconds, num_bytes = plan.cost()
    rows = [
        ["model", plan.location.name],
        ["parameters", plan.num_parameters],
        ["samples", len(plan.num_tokens)],
        ["  truncated", int(plan.tokenized.truncated.sum())],
        ["  without a response token (weight 0)", plan.num_tokens.count(0)],
        ["response tokens", sum(plan.num_tokens)],
        ["tokens to read", plan.tokens_read],
        ["estimated time (seconds)", seconds],
        ["memory of the model (GB)", num_bytes / 1e9],
    ]
    return Section(title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows})


def _estimate(plan: ScorePlan) -> str:
    seconds, num_bytes = plan.cost()
    return (
        f"{len(plan.num_tokens):,} samples, {plan.tokens_read:,} tokens to read: about "
        f"{max(1, round(seconds)):,} s, and {num_bytes / 1e9:.2g} GB for the model."
    )
