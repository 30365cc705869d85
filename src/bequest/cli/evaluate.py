"""`bequest evaluate BEFORE AFTER... --texts FILE --tasks NAME... --out DIR`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table
from bequest.errors import INTERRUPTED, InputError
from bequest.evaluation.config import EvaluateConfig
from bequest.evaluation.plan import EvaluationPlan, plan_evaluation
from bequest.results import Section, results_document

if TYPE_CHECKING:
    from bequest.evaluation.items import ItemScores
    from bequest.evaluation.models import Candidate
    from bequest.evaluation.paired import Comparison


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest evaluate`.
    """
    parser = build_parser(
        EvaluateConfig,
        prog="bequest evaluate",
        description="Say what models gained and lost against the first, item by item.",
        positionals=("models",),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    config = to_config(EvaluateConfig, parsed)
    if config.out is None and not parsed.dry_run:
        raise InputError("out is missing; name the folder for items and results.json.")
    with tempfile.TemporaryDirectory(prefix="bequest-") as scratch:
        plan = plan_evaluation(config, Path(scratch))
        if parsed.dry_run:
            _show_plan(plan, quiet=parsed.quiet, as_json=parsed.json)
            return 0
        return _carry_out(plan, started, quiet=parsed.quiet, as_json=parsed.json)


def _carry_out(plan: EvaluationPlan, started: float, *, quiet: bool, as_json: bool) -> int:
    from bequest.evaluation.evaluate import carry_out
    from bequest.losses.processes import join_processes, rank_and_size

    join_processes()
    first = rank_and_size()[0] == 0
    told = first and not quiet and not as_json
    if told:
        print_notes([_estimate(plan)])

    def report(candidate: Candidate, task: str, scores: ItemScores, seconds: float) -> None:
        line = f"{candidate.label}: {task}: {scores.metric} {scores.score:.4g} ({seconds:.1f} s)"
        print(f"  {line}", flush=True)

    try:
        found = carry_out(
            plan, progress=told and sys.stderr.isatty(), report=report if told else None
        )
    except KeyboardInterrupt:
        print("bequest evaluate: interrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    if told:
        print()
        print_table(_short(found.comparisons, plan.config.level))
        print()
        done = f"{plan.out}/results.json in {time.monotonic() - started:.1f} s"
        print_notes([*found.notes, done])
    elif first and as_json:
        print_json(results_document(command_line(), found.sections))
    return 0


def _short(comparisons: Sequence[Comparison], level: float) -> Section:
    """What a terminal has room for; all of it stands in results.json."""
    several = len({(one.before_name, one.after_name) for one in comparisons}) > 1
    columns = ["task", "metric", "items", "before", "after", "difference"]
    columns += [f"{level:.0%} interval", "corrected p", "verdict"]
    rows = []
    for one in comparisons:
        verdict = str(one.verdict)
        if one.verdict == "no change seen":
            verdict += f" (one of {one.smallest_difference:.2g} would have been)"
        row = [
            one.task,
            one.metric,
            one.num_items,
            f"{one.before:.4f}",
            f"{one.after:.4f}",
            f"{one.difference:+.4f}",
            "" if one.interval is None else "{:+.4f} to {:+.4f}".format(*one.interval),
            "" if one.corrected_p is None else f"{one.corrected_p:.2g}",
            verdict,
        ]
        rows.append([f"{one.before_name} -> {one.after_name}", *row] if several else row)
    return Section(
        title="Gains and losses",
        type="table",
        data={"columns": ["models", *columns] if several else columns, "rows": rows},
    )


def _show_plan(plan: EvaluationPlan, *, quiet: bool, as_json: bool) -> None:
    missing = {(c.identity, t.fingerprint) for c, t in plan.missing()}
    rows = [
        [
            candidate.label,
            candidate.num_parameters,
            task.name,
            task.num_items,
            "to compute" if (candidate.identity, task.fingerprint) in missing else "there",
        ]
        for candidate in plan.candidates
        for task in plan.tasks
    ]
    columns = ["model", "parameters", "task", "items", "results"]
    section = Section(title="Plan", type="table", data={"columns": columns, "rows": rows})
    if as_json:
        print_json(results_document(command_line(), [section]))
    elif not quiet:
        print_table(section)
        print_notes([_estimate(plan), "Nothing was written: dry run."])


def _estimate(plan: EvaluationPlan) -> str:
    missing = plan.missing()
    if not missing:
        return "All results are there already."
    return (
        f"{len(missing)} of {len(plan.candidates) * len(plan.tasks)} results to compute: about "
        f"{max(1, round(plan.seconds())):,} s, and {plan.memory() / 1e9:.2g} GB for a model's weights."
    )
