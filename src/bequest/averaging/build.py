"""Carry out an average: stream the weights, have the plan judged where that is needed, publish."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bequest.averaging.alike import Member
from bequest.averaging.coefficients import coefficient_vector, paper_of
from bequest.averaging.plan import AveragePlan, plan_of
from bequest.averaging.streaming import NonFiniteError, write_averages
from bequest.checkpoints.account import account
from bequest.checkpoints.companions import copy_companions
from bequest.checkpoints.lineage import command_line, describe_input, write_lineage
from bequest.checkpoints.model_card import write_model_card
from bequest.checkpoints.pieces import StoredTensor
from bequest.checkpoints.publish import staged_folder
from bequest.errors import CheckpointError
from bequest.papers import cited
from bequest.results import Section, write_results


def build(
    plan: AveragePlan, *, progress: bool = False, sections: Sequence[Section] = ()
) -> AveragePlan:
    """Write a planned average; it appears whole or not at all.

    Args:
        plan: what to write.
        progress: show a bar.
        sections: what else its `results.json` shows.

    Returns:
        The plan that was carried out: with `skip_bad`, without the members that hold NaN or Inf.

    Raises:
        BequestError: a member cannot be averaged, the plan does not load, or the disk failed.
    """
    started = time.monotonic()
    while True:
        try:
            with staged_folder(plan.target, overwrite=plan.manner.overwrite) as staging:
                _stream(plan, staging, progress=progress)
                write_small_files(plan, staging, sections, started)
            return plan
        except NonFiniteError as error:
            plan = without_bad(plan, error.source)


def without_bad(plan: AveragePlan, source: StoredTensor) -> AveragePlan:
    """Return a plan without the member whose tensor holds NaN or Inf.

    Raises:
        CheckpointError: bad members are not to be skipped, or nothing would be left.
    """
    bad = bad_member(plan, source)
    fault = _fault(bad, source)
    left = [member for member in plan.members if member is not bad]
    if not left:
        raise CheckpointError(f"{fault}, and no other member is left.")
    # Coefficients given as numbers fit one count only: say so before anything is read again.
    coefficient_vector(plan.mixture.coefficients, len(left))
    made = plan_of(left, plan.mixture, plan.target, plan.manner, skipped=(*plan.skipped, bad))
    return dataclasses.replace(made, notes=(*plan.notes, f"Left out {fault}."))


def bad_member(plan: AveragePlan, source: StoredTensor) -> Member:
    """Return the member whose tensor holds NaN or Inf.

    Raises:
        CheckpointError: bad members are not to be skipped.
    """
    bad = next(m for m in plan.members if m.weights.tensors[source.name] is source)
    if not plan.manner.skip_bad:
        raise CheckpointError(f"{_fault(bad, source)}; pass --skip-bad to average the others.")
    return bad


def _fault(bad: Member, source: StoredTensor) -> str:
    return f"{bad.weights.name}: tensor {source.name!r} holds NaN or Inf"


def verify(plan: AveragePlan) -> None:
    """Raise unless transformers would load the plan whole.

    Raises:
        BequestError: it would not.
    """
    from bequest.checkpoints.verify import verify_loadable

    code = None
    if plan.manner.trust_remote_code and plan.home is not None:
        code = (plan.home.folder, [path for path in plan.companions if path.suffix == ".py"])
    with tempfile.TemporaryDirectory(prefix="bequest-") as folder:
        verify_loadable(
            plan.shards,
            plan.config,
            Path(folder),
            model=f"the model for {plan.target}",
            model_class=_model_class(plan),
            code=code,
        )


def summary(plan: AveragePlan) -> list[Section]:
    """Return what a plan makes and of what, as tables."""
    return [
        Section(
            title=f"average: {plan.target.name}",
            type="table",
            data={
                "columns": ["", "result"],
                "rows": [
                    ["members", len(plan.members)],
                    ["parameters", plan.num_parameters],
                    ["bytes of weights", plan.num_bytes],
                    ["weight files", len(plan.shards)],
                ],
            },
        ),
        Section(
            title="members",
            type="table",
            data={
                "columns": ["step", "coefficient", "checkpoint"],
                "rows": [
                    [member.step, coefficient, member.weights.name]
                    for member, coefficient in zip(plan.members, plan.vector.tolist(), strict=True)
                ],
            },
        ),
    ]


def write_small_files(
    plan: AveragePlan,
    staging: Path,
    sections: Sequence[Section] = (),
    started: float | None = None,
) -> None:
    """Write all of a result but its weights: configuration, companions, card, results, lineage.

    Args:
        plan: what was written.
        staging: the folder with the weights.
        sections: what else its `results.json` shows.
        started: `time.monotonic()` when it began, if it was made alone.

    Raises:
        OSError: reading or writing failed.
    """
    if plan.config_file is not None:
        text = json.dumps(dict(plan.config), indent=2, ensure_ascii=False) + "\n"
        (staging / plan.config_file).write_text(text, encoding="utf-8")
    location = plan.home or plan.members[-1].weights.location
    copy_companions(location.folder, staging, plan.companions)
    write_model_card(
        staging,
        title=plan.target.name,
        source=location.folder,
        repo_id=location.repo_id,
        relation="merge",
        library="peft" if plan.members[-1].weights.format == "adapter" else "transformers",
        paragraphs=_card(plan),
    )
    seconds = None if started is None else time.monotonic() - started
    told = account(plan.settings, seconds=seconds)
    write_results(staging, command_line(), [*summary(plan), *sections, told])
    write_lineage(
        staging,
        operation="average",
        settings=plan.settings,
        inputs=[
            describe_input(member.weights, "member", full_hash=plan.manner.full_hash)
            for member in plan.members
        ],
        outputs=[path for path in staging.rglob("*") if path.is_file()],
        full_hash=plan.manner.full_hash,
    )


def _stream(plan: AveragePlan, staging: Path, *, progress: bool) -> None:
    bar = tqdm(
        total=sum(shard.num_bytes for shard in plan.shards),
        desc="average",
        unit="B",
        unit_scale=True,
        disable=not progress,
        leave=False,
    )
    with ThreadPoolExecutor(max_workers=1) as judge, bar:
        verdict = judge.submit(verify, plan) if plan.judged else None
        write_averages({staging: plan.shards}, _stopping(bar.update, verdict))
        if verdict is not None:
            verdict.result()


def _stopping(
    advance: Callable[[float], object], verdict: Future[None] | None
) -> Callable[[int], None]:
    """Report progress, and stop as soon as the verdict is against the plan."""

    def report(count: int) -> None:
        advance(count)
        if verdict is not None and verdict.done():
            verdict.result()

    return report


def _model_class(plan: AveragePlan) -> str:
    """The class that the configuration names: averages are not of causal language models only."""
    import transformers

    named = plan.config.get("architectures") or []
    if len(named) == 1 and hasattr(transformers, named[0]):
        return str(named[0])
    return "AutoModelForCausalLM"


def _card(plan: AveragePlan) -> list[str]:
    rows = [
        f"| {'' if member.step is None else member.step} | {coefficient:.6g} | "
        f"`{member.weights.location.repo_id or member.weights.location.folder.name}` |"
        for member, coefficient in zip(plan.members, plan.vector.tolist(), strict=True)
    ]
    made = f"The average of {len(plan.members)} checkpoints of one training run, made with "
    table = "\n".join(["| step | coefficient | checkpoint |", "|---|---|---|", *rows])
    extra = []
    if plan.mixture.exclude:
        listed = ", ".join(f"`{pattern}`" for pattern in plan.mixture.exclude)
        extra.append(f"Taken from the newest checkpoint alone: tensors that match {listed}.")
    return [
        f"{made}`bequest average`.",
        table,
        *extra,
        *plan.notes,
        cited(paper_of(plan.mixture.coefficients)),
    ]
