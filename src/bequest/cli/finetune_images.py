"""`bequest finetune --config FILE` where the file says `task: image-classification`."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

from bequest.checkpoints.lineage import command_line
from bequest.cli.output import print_json, print_notes, print_table
from bequest.cli.run_arguments import parse_run
from bequest.errors import INTERRUPTED
from bequest.results import Section, results_document
from bequest.training.vision_config import TASK, ImageConfig, check_images


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Say whether a command line of `bequest finetune` is about images.

    Args:
        arguments: the command line after `bequest finetune`.
    """
    words = list(arguments)
    pairs = [word.split("=", 1) for word in words if word.startswith(("--task=", "--config="))]
    pairs += [list(pair) for pair in itertools.pairwise(words)]
    for flag, value in pairs:
        if flag == "--task":
            return value == TASK
        if flag == "--config" and _task_in(value) == TASK:
            return True
    return False


def _task_in(path: str) -> Any:
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:  # noqa: PTH123
            read = yaml.safe_load(stream)
    except (OSError, ValueError, yaml.YAMLError):
        return None  # The parser says what is wrong with it.
    return read.get("task") if isinstance(read, dict) else None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest finetune`.
    """
    parsed = parse_run(
        ImageConfig,
        arguments,
        prog="bequest finetune",
        description="Fine-tune a classifier of images and forget less: probe, FLOW, head.",
    )
    started = time.monotonic()
    config = parsed.config
    check_images(config)
    told = not parsed.quiet and not parsed.as_json
    from bequest.training.vision_plan import plan_images

    try:
        plan = plan_images(config)
        planned = _planned(plan)
        if parsed.dry_run:
            if told:
                print_table(planned)
                print("  Nothing was written: dry run.")
            elif parsed.as_json:
                print_json(results_document(command_line(), [planned]))
            return 0
        if told:
            print_table(planned)
        from bequest.training.vision_publish import finetune_images

        done = finetune_images(plan, tell=lambda note: print_notes([note]) if told else None)
    except KeyboardInterrupt:
        print("bequest finetune: interrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    if told:
        print_table(done.sections[0])
        print_notes([f"{plan.target} in {time.monotonic() - started:.1f} s"])
    elif parsed.as_json:
        print_json(results_document(command_line(), done.sections))
    return 0


def _planned(plan: Any) -> Section:
    from bequest.training.vision_cost import estimate

    cost = estimate(plan)
    rows = [
        ["parameters", sum(p.numel() for p in plan.start.parameters())],
        ["head", plan.start.head_name],
        ["training images", len(plan.train)],
        ["classes", plan.train.features["label"].num_classes],
        ["test images", 0 if plan.test is None else len(plan.test)],
        ["images of retention", 0 if plan.retention is None else len(plan.retention)],
        ["estimated time (seconds)", round(cost.seconds, 1)],
        ["estimated memory (GB)", cost.num_bytes / 1e9],
        ["  weights", cost.weights / 1e9],
        ["  gradients and optimizer", cost.gradients / 1e9],
        ["  activations", cost.activations / 1e9],
        ["goes on after step", plan.resume.step],
        ["run", str(plan.config.run_folder)],
        ["out", str(plan.target)],
    ]
    return Section(title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows})
