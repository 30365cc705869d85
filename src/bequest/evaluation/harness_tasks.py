"""Which of lm-eval's tasks are asked for: found by name, by YAML file or by file of questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bequest.errors import InputError, explained
from bequest.evaluation.harness_task import HarnessTask
from bequest.evaluation.local_data import SUFFIXES, write_task
from bequest.evaluation.quiet_harness import quiet_harness


def load_tasks(
    names: Sequence[str],
    *,
    task_folder: str | None,
    written: Path,
    num_fewshot: int | None,
    chat: bool,
    limit: int | None,
) -> list[HarnessTask]:
    """Find tasks by name or file, and read their items.

    Args:
        names: each a name of lm-eval's, a `.yaml` file, or a `.json` or `.jsonl` file of questions,
            followed by `:METRIC` if not its first metric is wanted.
        task_folder: a folder with YAML files whose names may be used too.
        written: where the YAML of files of questions is put.
        num_fewshot: examples before each item.
        chat: apply the model's chat template.
        limit: the first items of each task only.

    Raises:
        InputError: lm-eval is not installed, or a task does not exist, or its data cannot be had.
    """
    try:
        with quiet_harness(True):
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"tasks are run by lm-eval, but {error.name} is not installed; "
            "run `pip install 'bequest[evaluate]'`"
        ) from error
    if task_folder is not None and not Path(task_folder).expanduser().is_dir():
        raise InputError(f"task_folder {task_folder} is no folder; name one with YAML files")
    parsed = [_name_and_metric(name) for name in names]
    own = {"include_path": str(Path(task_folder).expanduser()) if task_folder else None}
    with quiet_harness(True):
        manager = TaskManager(**own, include_defaults=False)
        # lm-eval reads fourteen thousand YAML files to know its own names: not for local ones.
        if any(not Path(name).suffix and name not in manager.all_tasks for name, _ in parsed):
            manager = TaskManager(**own)
    tasks = []
    for name, metric in parsed:
        shown, loaded = _load(manager, name, written)
        tasks.append(
            HarnessTask(shown, metric, loaded, num_fewshot=num_fewshot, chat=chat, limit=limit)
        )
    return tasks


def _name_and_metric(text: str) -> tuple[str, str | None]:
    name, colon, metric = text.rpartition(":")
    return (name, metric) if colon and name else (text, None)


def _load(manager: Any, name: str, written: Path) -> tuple[str, dict[str, Any]]:
    path = Path(name).expanduser()
    if path.suffix in (*SUFFIXES, ".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"task {name} does not exist; name a file or one of lm-eval's tasks")
        wanted = str(write_task(path, written) if path.suffix in SUFFIXES else path.absolute())
    elif name in manager.all_tasks:
        wanted = name
    else:
        from difflib import get_close_matches

        close = get_close_matches(name, manager.all_tasks, 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"task {name!r} is no task of lm-eval and no file{hint}")
    with quiet_harness(True), explained(f"task {name} cannot be loaded"):
        tasks = dict(manager.load([wanted])["tasks"])
        for task in tasks.values():
            if not len(task.eval_docs):
                raise InputError(f"task {name} has no items")
    return (next(iter(tasks)) if path.suffix else name), tasks
