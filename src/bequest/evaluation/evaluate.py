"""Evaluate models on the same items, and say what was gained, what was lost, and how sure it is."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.checkpoints.lineage import command_line
from bequest.errors import InputError
from bequest.evaluation.config import EvaluateConfig
from bequest.evaluation.items import ItemScores
from bequest.evaluation.models import Candidate, LoadedModel
from bequest.evaluation.paired import Comparison, Group, compare_all
from bequest.evaluation.plan import EvaluationPlan, Task, plan_evaluation
from bequest.evaluation.sections import appendix, notes_on, sections_of
from bequest.results import Section, write_results

Report = Callable[[Candidate, str, ItemScores, float], None]
"""Called with a model, a task's name, its scores and the seconds they took."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What an evaluation found."""

    comparisons: tuple[Comparison, ...]
    """Each judged model, or method, against the one before on each task."""
    scores: Mapping[str, tuple[ItemScores, ...]]
    """For each task every model's items, in the order of the models."""
    sections: tuple[Section, ...]
    """The same as sections of `results.json`."""
    notes: tuple[str, ...]
    """What a reader must know to read them, one sentence each."""


def evaluate(
    before: str | Path,
    *after: str | Path,
    texts: str | Path | Sequence[str | Path] = (),
    tasks: Sequence[str] = (),
    generate: Sequence[str] = (),
    out: str | Path | None = None,
    progress: bool = False,
    **options: object,
) -> Evaluation:
    """Compare models item by item on texts, lm-eval tasks, verified problems, or images.

    Where `torchrun` or `accelerate launch` started several processes, they share the work.

    Args:
        before: folder or hub id of the model that is compared with; `"LABEL=MODEL"` names it.
        *after: the models that are judged; those of one label are runs of one method.
        texts: files of text for bits per byte, as for `read_texts`.
        tasks: lm-eval's tasks by name or file.
        generate: generators of reasoning-gym.
        out: the folder to write: items, and `results.json`. What an earlier run left there is not
            computed again. None writes nothing.
        progress: show bars.
        **options: other fields of `EvaluateConfig`, such as `limit`, `target` and `images`.

    Raises:
        InputError: an argument, a model or a task is at fault.
        StorageError: the disk is full or failed.
    """
    files = [texts] if isinstance(texts, str | Path) else texts
    listed: dict[str, object] = {"tasks": tasks, "generate": generate}
    names = ("images", "image_classes", "target")
    listed |= {name: options[name] for name in names if name in options}
    for name, value in listed.items():
        if isinstance(value, str):
            raise InputError(f"{name} must be a sequence of names, got one str; pass [{name}]")
    for name in names:
        if name in options:
            options[name] = tuple(map(str, listed[name]))  # type: ignore[call-overload]
    known = set(EvaluateConfig.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise InputError(f"{name} is no option; choose one of {', '.join(sorted(known))}")
    config = EvaluateConfig(
        models=tuple(map(str, (before, *after))),
        texts=tuple(map(str, files)),
        tasks=tuple(tasks),
        generate=tuple(generate),
        out=None if out is None else str(out),
        **options,  # type: ignore[arg-type]
    )
    with tempfile.TemporaryDirectory(prefix="bequest-") as scratch:
        return carry_out(plan_evaluation(config, Path(scratch)), progress=progress)


def carry_out(
    plan: EvaluationPlan, *, progress: bool = False, report: Report | None = None
) -> Evaluation:
    """Compute what is missing, one model in memory at a time, and compare.

    Args:
        plan: from `plan_evaluation`.
        progress: show bars.
        report: told of each model's task as it is done.

    Raises:
        InputError: a model does not load, does not fit a task, or items do not pair.
        StorageError: the disk is full or failed.
    """
    from bequest.losses.processes import from_first, join_processes, rank_and_size

    began = time.monotonic()
    join_processes()
    # Every process must take the same way, and only the first one's view of the disk counts.
    if rank_and_size()[0] == 0:
        plan.contents.keep()
    missing = from_first([(c.identity, t.fingerprint) for c, t in plan.missing()])
    for candidate in plan.candidates:
        left = [t for t in plan.tasks if (candidate.identity, t.fingerprint) in missing]
        missing = [pair for pair in missing if pair[0] != candidate.identity]
        loaded = LoadedModel(
            candidate,
            batch_size=plan.config.batch_size,
            trust_remote_code=plan.config.trust_remote_code,
        )
        for task in left:
            started = time.monotonic()
            scores = _measured(plan, loaded, task, progress, started)
            if scores is not None and report is not None and rank_and_size()[0] == 0:
                report(candidate, task.name, scores, time.monotonic() - started)
        loaded.release()
    if rank_and_size()[0] > 0:
        return Evaluation(comparisons=(), scores={}, sections=(), notes=())
    return _compared(plan, began)


def _measured(
    plan: EvaluationPlan, loaded: LoadedModel, task: Task, progress: bool, started: float
) -> ItemScores | None:
    """Run one model on one task, keep the result, and then drop what was kept on the way."""
    from bequest.losses.processes import rank_and_size

    candidate = loaded.candidate
    target = plan.store.path(candidate, task.name, task.fingerprint)
    scratch = target.with_suffix(".unfinished")
    scores = task.measure(loaded, progress=progress, scratch=scratch)
    if scores is None or rank_and_size()[0] > 0:
        return None
    plan.store.write(candidate, scores, task.fingerprint, seconds=time.monotonic() - started)
    shutil.rmtree(scratch, ignore_errors=True)
    return scores


def _compared(plan: EvaluationPlan, began: float) -> Evaluation:
    scores: dict[str, tuple[ItemScores, ...]] = {}
    for task in plan.tasks:
        found = [plan.store.read(c, task.name, task.fingerprint) for c in plan.candidates]
        if any(one is None for one in found):
            raise InputError(f"items of task {task.name} vanished while it ran; run it again")
        scores[task.name] = tuple(one for one in found if one is not None)
    labels = list(dict.fromkeys(candidate.label for candidate in plan.candidates))
    pairs = [(labels[0], label) for label in labels[1:]]
    if plan.config.between:
        pairs += itertools.combinations(labels[1:], 2)
    groups = {
        (name, label): Group(
            name=label,
            runs=tuple(
                one
                for one, candidate in zip(own, plan.candidates, strict=True)
                if candidate.label == label
            ),
        )
        for name, own in scores.items()
        for label in labels
    }
    comparisons = compare_all(
        [(groups[name, first], groups[name, second]) for first, second in pairs for name in scores],
        plan.statistics,
    )
    sections = sections_of(
        plan.candidates, scores, comparisons, plan.config.target, plan.config.level
    )
    sections += appendix(plan, time.monotonic() - began)
    if plan.out is not None:
        write_results(plan.out, command_line(), sections)
    return Evaluation(
        comparisons=tuple(comparisons),
        scores=scores,
        sections=tuple(sections),
        notes=tuple(notes_on(comparisons, plan.statistics)),
    )
