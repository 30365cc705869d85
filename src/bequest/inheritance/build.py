"""Carry out an inheritance: stream the weights, let transformers judge the plan, publish."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bequest.checkpoints.account import account
from bequest.checkpoints.companions import copy_companions
from bequest.checkpoints.lineage import command_line, describe_input, write_lineage
from bequest.checkpoints.model_card import write_model_card
from bequest.checkpoints.publish import staged_folder
from bequest.checkpoints.shards import Shard, TensorSpec, plan_shards, write_shards
from bequest.checkpoints.verify import verify_loadable
from bequest.inheritance.config_cut import depth_of, model_class, read_config, write_config
from bequest.inheritance.identity import build_on_meta, compare_blocks, find_block_modules
from bequest.inheritance.plan import InheritancePlan
from bequest.inheritance.quantized import FIELD as QUANTIZATION
from bequest.inheritance.quantized import standing_for
from bequest.inheritance.selection import describe_layers
from bequest.papers import cited
from bequest.results import Section, write_results


def build(plan: InheritancePlan, *, progress: bool = False) -> InheritancePlan:
    """Write a planned model; it appears whole and verified, or not at all.

    Args:
        plan: what to write.
        progress: show a bar.

    Returns:
        The same plan.

    Raises:
        BequestError: the plan does not load as it should, or the disk failed.
    """
    started = time.monotonic()
    with staged_folder(plan.target, overwrite=plan.overwrite) as staging:
        # The verdict takes seconds of importing and building; the copy spends them in the kernel.
        with ThreadPoolExecutor(max_workers=1) as judge:
            verdict = judge.submit(verify, plan)
            with tqdm(
                total=plan.num_bytes,
                desc=plan.operation,
                unit="B",
                unit_scale=True,
                disable=not progress,
                leave=False,
            ) as bar:
                write_shards(plan.shards, staging, _stopping(bar.update, verdict))
            verdict.result()
        _write_small_files(plan, staging, started)
    return plan


def verify(plan: InheritancePlan) -> None:
    """Raise unless transformers would load the plan whole, each block the one that it was.

    Raises:
        BequestError: it would not.
    """
    source = plan.inputs[plan.blocks_from]
    code = None
    if plan.trust_remote_code:
        code = (plan.home.folder, [path for path in plan.companions if path.suffix == ".py"])
    shards: tuple[Shard[TensorSpec], ...] = plan.shards
    planned_config = dict(plan.config)
    quantization = planned_config.pop(QUANTIZATION, None)
    if quantization:
        shards = plan_shards(standing_for(plan.tensors, quantization), "1TB")
    with tempfile.TemporaryDirectory(prefix="bequest-") as folder:
        result = verify_loadable(
            shards,
            planned_config,
            Path(folder),
            model=f"the model for {plan.target}",
            model_class=model_class(plan.config),
            code=code,
        )
    if plan.trust_remote_code:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=True)
    else:
        unquantized = {key: value for key, value in source.config.items() if key != QUANTIZATION}
        config = read_config(unquantized, model=source.location.name)
    reference = build_on_meta(
        config,
        model_class=model_class(source.config),
        trust_remote_code=plan.trust_remote_code,
    )
    compare_blocks(
        find_block_modules(reference, plan.block_prefix, depth_of(config)),
        find_block_modules(result, plan.block_prefix, plan.num_layers),
        plan.source_blocks,
        model=source.location.name,
    )


def summary(plan: InheritancePlan) -> Section:
    """Return what a plan makes, beside its home, as a table."""
    home = plan.home
    depth = depth_of(read_config(home.config, model=home.location.name))
    return Section(
        title=f"{plan.operation}: {plan.target.name}",
        type="table",
        data={
            "columns": ["", next(iter(plan.inputs)), "result"],
            "rows": [
                ["layers", depth, plan.num_layers],
                ["parameters", home.num_parameters, plan.num_parameters],
                ["bytes of weight files", _size_of(home.weight_files), plan.num_bytes],
                ["weight files", len(home.weight_files), len(plan.shards)],
            ],
        },
    )


def _size_of(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _write_small_files(plan: InheritancePlan, staging: Path, started: float) -> None:
    write_config(plan.config, staging / "config.json")
    copy_companions(plan.home.folder, staging, plan.companions)
    for name, contents in plan.rewritten.items():
        write_config(contents, staging / name)
    location = plan.home.location
    write_model_card(
        staging,
        title=plan.target.name,
        source=location.folder,
        repo_id=location.repo_id,
        paragraphs=_card(plan),
    )
    told = account(plan.settings, seconds=time.monotonic() - started)
    write_results(staging, command_line(), [summary(plan), told])
    write_lineage(
        staging,
        operation=plan.operation,
        settings=plan.settings,
        inputs=[
            describe_input(checkpoint, role, full_hash=plan.full_hash)
            for role, checkpoint in plan.inputs.items()
        ],
        outputs=[path for path in staging.rglob("*") if path.is_file()],
        full_hash=plan.full_hash,
    )


def _card(plan: InheritancePlan) -> Sequence[str]:
    names = {
        role: checkpoint.location.repo_id or checkpoint.folder.name
        for role, checkpoint in plan.inputs.items()
    }
    made = {
        "inherit": f"Cut out of `{names[plan.blocks_from]}` with `bequest inherit`.",
        "grow": f"Grown from `{names.get('student')}` with blocks of `{names[plan.blocks_from]}` "
        "by `bequest grow`.",
        "stack": f"The blocks of `{names[plan.blocks_from]}`, over and over, for the stacking "
        "baseline of `bequest inheritune`.",
    }[plan.operation]
    rows = [
        f"| blocks (of the {plan.blocks_from}) | {describe_layers(plan.source_blocks)} |",
        f"| layers | {plan.num_layers} |",
        f"| parameters stored | {plan.num_parameters:,} |",
    ]
    if plan.reinitialized:
        drawn = ", ".join(f"`{name}`" for name in plan.reinitialized)
        rows.append(f"| drawn anew (seed {plan.seed}) | {drawn} |")
    return [made, "\n".join(["| | |", "|---|---|", *rows]), *plan.notes, cited("inheritune")]


def _stopping(advance: Callable[[float], object], verdict: Future[None]) -> Callable[[int], None]:
    """Report progress, and stop the copy as soon as the verdict is against the plan."""

    def report(count: int) -> None:
        advance(count)
        if verdict.done():
            verdict.result()

    return report
