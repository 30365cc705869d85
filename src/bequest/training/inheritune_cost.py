"""What an Inheritune run will read and need at most, training by training, before it starts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from bequest.inheritance.half_width import half_width_config
from bequest.inheritance.inherit import plan_inherit
from bequest.results import Section
from bequest.training.inheritune_baselines import baseline_stages
from bequest.training.inheritune_plan import InheritunePlan
from bequest.training.inheritune_stage import Stage, cut_of
from bequest.training.pretrain_plan import PretrainPlan, training_dtype
from bequest.training.throughput import peak_flops

_COLUMNS = [
    "training",
    "blocks",
    "parameters",
    "tokens",
    "memory of weights, gradients, optimizer (GB)",
    "hours at the device's full arithmetic, at least",
    "disk while it trains (GB), at most",
    "disk it leaves (GB)",
]


def cost_section(plan: InheritunePlan) -> Section:
    """Return a row for each training that may come, and one for all of them.

    The rounds are all that the budget allows, and the baselines those of the last of them; a run
    that stops before is cheaper. A finished training is counted, too.
    """
    arguments = plan.reference.arguments
    speed, _ = peak_flops(arguments.device, training_dtype(arguments))
    rows: list[list[Any]] = []
    for name, stage in _stages(plan):
        shaped = _shaped(plan, stage)
        tokens = plan.reference.length.tokens_trained * stage.times
        flops = shaped.flops_per_token()
        hours = None if flops is None else tokens * flops / speed / 3600
        memory = shaped.memory()[0] / 1e9
        need = shaped.disk()
        # It begins with a copy, too, unless its weights are drawn.
        models = need.model * (1 if stage.begins == "scratch" else 2)
        stays = need.run if plan.config.keep_checkpoints else 0
        disk = [(models + need.run) / 1e9, (models + stays) / 1e9]
        rows.append([name, stage.depth, shaped.num_parameters, tokens, memory, hours, *disk])
    known = [row[5] for row in rows if row[5] is not None]
    tokens, most = sum(row[3] for row in rows), max(row[4] for row in rows)
    hours = sum(known) if len(known) == len(rows) else None
    # While one trains, all before it are there.
    left = list(itertools.accumulate((row[7] for row in rows), initial=0.0))
    peak = max(before + row[6] for before, row in zip(left, rows, strict=False))
    rows.append(["all, at most", None, None, tokens, most, hours, peak, left[-1]])
    return Section(title="Trainings", type="table", data={"columns": _COLUMNS, "rows": rows})


def _stages(plan: InheritunePlan) -> Iterator[tuple[str, Stage]]:
    for number in range(_rounds(plan)):
        yield f"round {number + 1}", plan.round_stage(number)
    if not _rounds(plan):
        return
    depth = plan.depths[_rounds(plan) - 1]
    for name in plan.config.baselines:
        *earlier, last = baseline_stages(plan.config, name, depth, plan.reference_depth)
        for stage in earlier:
            yield f"{name}, first", stage
        yield name, last


def _rounds(plan: InheritunePlan) -> int:
    """Return how many rounds the budgets of rounds and of tokens allow."""
    most, each = plan.config.max_tokens, plan.reference.length.tokens_trained
    count = len(plan.depths)
    return count if most is None else min(count, most // max(1, each))


def _shaped(plan: InheritunePlan, stage: Stage) -> PretrainPlan:
    """Return the plan of measuring the reference, but for a model of a stage's shape."""
    whole = plan.reference.start
    config = whole.config
    if stage.begins == "half-width":
        config = half_width_config(config)
    else:
        cut = plan_inherit(cut_of(plan.config, stage.layers)).config
        config = type(config).from_dict(dict(cut))
    return dataclasses.replace(plan.reference, start=dataclasses.replace(whole, config=config))
