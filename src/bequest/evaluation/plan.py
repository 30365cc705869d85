"""What is to be evaluated: everything about it that can be refused before a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bequest.checkpoints.model_identity import ContentHashes
from bequest.errors import InputError
from bequest.evaluation.config import EvaluateConfig
from bequest.evaluation.items import ItemScores
from bequest.evaluation.models import DTYPES, Candidate, LoadedModel, find_candidates
from bequest.evaluation.paired import Statistics
from bequest.evaluation.store import ItemStore
from bequest.losses.device import device
from bequest.results import FILE_NAME

ITEMS_FOLDER = "items"
_CONTENTS = "contents.json"


class Task(Protocol):
    """Items on which any model can be scored."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def fingerprint(self) -> str:
        """Hash of its items and settings: results of one fingerprint can be compared."""

    @property
    def num_items(self) -> int:
        """How many items it has."""

    def flops(self, candidate: Candidate) -> float:
        """About how many floating-point operations a model takes for all items."""

    def measure(
        self, model: LoadedModel, *, progress: bool, scratch: Path | None
    ) -> ItemScores | None:
        """Score a model on every item, in every process of a run; the first gets the scores."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationPlan:
    """Models and tasks that exist and fit: what can be refused without weights has been."""

    config: EvaluateConfig
    """What was asked."""
    candidates: tuple[Candidate, ...]
    """The models; the label of the first is what the others are compared with."""
    tasks: tuple[Task, ...]
    """The tasks, in the order in which a model is taken through them."""
    store: ItemStore
    """Where item scores are kept."""
    statistics: Statistics
    """How differences are judged."""
    contents: ContentHashes
    """What was found out about the models' files; kept when there are results."""

    @property
    def out(self) -> Path | None:
        """The folder to write."""
        return None if self.config.out is None else Path(self.config.out).expanduser()

    def missing(self) -> list[tuple[Candidate, Task]]:
        """Return what no earlier run has computed, each model's tasks together."""
        found: dict[Path, tuple[Candidate, Task]] = {}
        for candidate in self.candidates:
            for task in self.tasks:
                path = self.store.path(candidate, task.name, task.fingerprint)
                kept = self.store.read(candidate, task.name, task.fingerprint)
                if kept is None or self.config.overwrite:
                    found.setdefault(path, (candidate, task))
        return list(found.values())

    def seconds(self) -> float:
        """Return about how long the missing results take, by a quick test of the device."""
        work = sum(task.flops(candidate) for candidate, task in self.missing())
        rates = {kind: _rate(kind) for kind in {c.dtype for c in self.candidates}}
        return work / min(rates.values())

    def memory(self) -> float:
        """Return the bytes of the largest model's weights: one model is in memory at a time."""
        import torch

        return max(
            float(c.num_parameters * torch.finfo(getattr(torch, c.dtype)).bits // 8)
            for c in self.candidates
        )


def plan_evaluation(config: EvaluateConfig, scratch: Path) -> EvaluationPlan:
    """Find models and tasks, and refuse what can be refused before a model is loaded.

    Args:
        config: what is asked.
        scratch: a folder for what is kept only as long as the plan, if `config.out` is None.

    Raises:
        InputError: an argument, a model or a task is at fault.
    """
    _check(config)
    statistics = Statistics(
        level=config.level, alpha=config.alpha, resamples=config.resamples, seed=config.seed
    )
    home = scratch if config.out is None else Path(config.out).expanduser()
    tasks: list[Task] = []
    from bequest.evaluation.text_task import TextTask

    tasks += [
        TextTask(
            path,
            window_bytes=config.window_bytes,
            overlap_bytes=config.overlap_bytes,
            tokens_per_batch=config.tokens_per_batch,
            limit=config.limit,
        )
        for path in config.texts
    ]
    if config.generate:
        from bequest.evaluation.generation_task import GenerationTask

        tasks += [
            GenerationTask(
                name,
                size=config.generate_size,
                seed=config.generate_seed,
                prompt=config.prompt,
                chat=config.chat,
                max_new_tokens=config.max_new_tokens,
                batch_size=int(config.batch_size) if config.batch_size.isdecimal() else 16,
            )
            for name in config.generate
        ]
    contents = ContentHashes(None if config.out is None else home / ITEMS_FOLDER / _CONTENTS)
    candidates = find_candidates(
        config.models,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        images=bool(config.images),
        original_head=config.original_head,
        contents=contents,
    )
    if config.images:
        tasks += _image_tasks(config, candidates)
    if config.tasks:
        from bequest.evaluation.harness_tasks import load_tasks

        tasks += load_tasks(
            config.tasks,
            task_folder=config.task_folder,
            written=scratch,
            num_fewshot=config.num_fewshot,
            chat=config.chat,
            limit=config.limit,
        )
    _check_names(config, [task.name for task in tasks])
    return EvaluationPlan(
        config=config,
        candidates=tuple(candidates),
        tasks=tuple(tasks),
        store=ItemStore(home / ITEMS_FOLDER),
        statistics=statistics,
        contents=contents,
    )


def _image_tasks(config: EvaluateConfig, candidates: Sequence[Candidate]) -> list[Task]:
    from bequest.evaluation.image_task import image_tasks

    found = image_tasks(
        config.images,
        config.image_classes,
        split=config.image_split,
        image=config.image_column,
        label=config.label_column,
        limit=config.limit,
        batch_size=int(config.batch_size) if config.batch_size.isdecimal() else 16,
        original_head=config.original_head,
    )
    for task in found:
        for candidate in candidates:
            task.check(candidate)
    return list(found)


def _check(config: EvaluateConfig) -> None:
    if len(config.models) < 2:
        raise InputError(
            f"models has {len(config.models)} of at least 2; give the model before and one after"
        )
    _check_measures(config)
    if config.dtype not in DTYPES:
        raise InputError(f"dtype is {config.dtype!r}; choose one of {', '.join(DTYPES)}")
    if not (config.batch_size.isdecimal() and int(config.batch_size)) and (
        config.batch_size.partition(":")[0] != "auto"
    ):
        raise InputError(f"batch_size is {config.batch_size!r}; give a number, or auto")
    for field in ("limit", "generate_size", "max_new_tokens", "tokens_per_batch"):
        value = getattr(config, field)
        if value is not None and value < 1:
            raise InputError(f"{field} is {value}; it must be at least 1")
    if config.num_fewshot is not None and config.num_fewshot < 0:
        raise InputError(f"num_fewshot is {config.num_fewshot}; it must be at least 0")
    if config.out is None:
        return
    out = Path(config.out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"out {config.out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / ITEMS_FOLDER).is_dir():
        holds = FILE_NAME if (out / FILE_NAME).is_file() else "other files"
        raise InputError(f"out {config.out} holds {holds} and no evaluation; name another folder")


def _check_measures(config: EvaluateConfig) -> None:
    on_text = [name for name in ("texts", "tasks", "generate") if getattr(config, name)]
    if not (on_text or config.images):
        raise InputError(
            "texts, tasks, generate and images are all empty; name what to evaluate on"
        )
    if on_text and config.images:
        raise InputError(
            f"images are read by image classifiers and {on_text[0]} by language models; evaluate "
            "them in two commands with an out of their own each"
        )
    for name in ("image_classes", "original_head"):
        if getattr(config, name) and not config.images:
            raise InputError(f"{name} is given without images; name the images, or leave it out")


def _check_names(config: EvaluateConfig, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two tasks are called {twice[0]}; leave one out, or rename its file")
    for name in config.target:
        if name not in names:
            raise InputError(f"target {name!r} is none of the tasks: {', '.join(names)}")
    if config.target and len(set(config.target)) == len(names):
        raise InputError("target names every task; name one more that shows what was forgotten")


def _rate(dtype: str) -> float:
    """Floating-point operations a second of a matrix product."""
    import torch

    size = 1024
    matrix = torch.ones(size, size, device=device(), dtype=getattr(torch, dtype))
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return max(rates)
