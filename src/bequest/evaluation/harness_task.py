"""lm-eval's tasks, item by item: stock names, YAML files, and local files of questions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from bequest.errors import InputError, explained
from bequest.evaluation.items import ItemScores, numbered, require_finite
from bequest.evaluation.models import Candidate, LoadedModel
from bequest.evaluation.quiet_harness import quiet_harness
from bequest.evaluation.resumed_harness import ResumedHarness

_PROBED_DOCUMENTS = 20
_SEED = 1234
"""lm-eval's default."""


class HarnessTask:
    """One of lm-eval's tasks, or a group of them that counts as one task.

    Args:
        name: what it is called here.
        metric: which of its metrics is compared, as lm-eval calls it (`acc_norm`, or
            `exact_match,strict-match` with the filter); None: its first one that is a number an
            item.
        tasks: lm-eval's tasks by name, several for a group.
        num_fewshot: examples before each item; None: as the task says.
        chat: apply the model's chat template.
        limit: the first items of each task only.
    """

    def __init__(
        self,
        name: str,
        metric: str | None,
        tasks: Mapping[str, Any],
        *,
        num_fewshot: int | None,
        chat: bool,
        limit: int | None,
    ) -> None:
        from importlib.metadata import version

        self.name = name
        self._metric, _, self._filter = (metric or "").partition(",")
        self._tasks = dict(tasks)
        self._settings = {"num_fewshot": num_fewshot, "limit": limit, "apply_chat_template": chat}
        # With a chat template, each example is a turn of its own: lm-eval's default.
        self._settings["fewshot_as_multiturn"] = chat
        digest = hashlib.sha256(repr((name, metric, self._settings)).encode())
        digest.update(version("lm_eval").encode())
        for own_name, task in sorted(self._tasks.items()):
            # What is read counts, not where it lies.
            config = task.dump_config()
            config = {
                key: config[key] for key in config if key not in ("dataset_kwargs", "metadata")
            }
            digest.update(json.dumps([own_name, config], sort_keys=True, default=str).encode())
            for document in self._documents(task):
                digest.update(json.dumps(document, sort_keys=True, default=str).encode())
        self.fingerprint = digest.hexdigest()

    def _documents(self, task: Any) -> Iterator[Any]:
        for row, document in enumerate(task.eval_docs):
            if row == self._settings["limit"]:
                return
            yield document

    @property
    def num_items(self) -> int:
        """Items of all its tasks."""
        limit = self._settings["limit"]
        counts = [len(task.eval_docs) for task in self._tasks.values()]
        return sum(count if limit is None else min(count, limit) for count in counts)

    @property
    def bytes_read(self) -> int:
        """About how many bytes run through a model, by the first items of each task."""
        total = 0.0
        for task in self._tasks.values():
            count = sum(1 for _ in self._documents(task))
            probed = min(count, _PROBED_DOCUMENTS)
            with quiet_harness(True):
                task.build_all_requests(limit=probed, rank=0, world_size=1)
            length = sum(
                len(part.encode())
                for instance in task.instances
                for part in instance.args
                if isinstance(part, str)
            )
            total += length / max(1, probed) * count
        return round(total)

    def flops(self, candidate: Candidate) -> float:
        """About how many floating-point operations a model takes for all items."""
        return candidate.flops_on_text(self.bytes_read)

    def measure(
        self, model: LoadedModel, *, progress: bool, scratch: Path | None
    ) -> ItemScores | None:
        """Run the task under a model; None in any process but the first.

        Args:
            model: the model.
            progress: let lm-eval show its bars.
            scratch: a folder for answers as they come, taken up by the next call.

        Raises:
            InputError: lm-eval cannot run it, or no metric of it can be paired item by item.
        """
        from lm_eval import evaluate

        with (
            quiet_harness(not progress),
            explained(f"task {self.name} fails under lm-eval"),
            _resumed(model, scratch) as harness,
        ):
            for task in self._tasks.values():
                self._prepare(task)
            found = evaluate(
                lm=harness,
                task_dict={"tasks": self._tasks, "groups": {}, "group_map": {}},
                limit=self._settings["limit"],
                apply_chat_template=self._settings["apply_chat_template"],
                fewshot_as_multiturn=self._settings["fewshot_as_multiturn"],
                bootstrap_iters=0,
                log_samples=True,
            )
        if found is None:
            return None
        samples = [sample for own_name in self._tasks for sample in found["samples"][own_name]]
        is_finite = [_is_finite(sample["resps"]) for sample in samples]
        require_finite(is_finite, model=model.candidate.label, task=self.name)
        return self._scores(found)

    def _prepare(self, task: Any) -> None:
        """Set examples and seeds as `lm_eval.simple_evaluate` does.

        That one is not called, because it loads what is loaded and asks git about this folder.
        """
        import torch

        asked, own = self._settings["num_fewshot"], task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=own or 0 if asked is None or own == 0 else asked)
        task.set_fewshot_seed(seed=_SEED)
        torch.manual_seed(_SEED)

    def _scores(self, found: Mapping[str, Any]) -> ItemScores:
        ids: list[str] = []
        values: list[float] = []
        chosen: tuple[str, str] | None = None
        for own_name in self._tasks:
            samples = sorted(found["samples"][own_name], key=lambda sample: sample["doc_id"])
            metric, filter_name = self._chosen(samples)
            if chosen is not None and chosen != (metric, filter_name):
                raise InputError(
                    f"task {self.name} has parts of different metrics, {chosen[0]} and {metric}; "
                    f"name one that all have, as {self.name}:METRIC"
                )
            chosen = metric, filter_name
            kept = [sample for sample in samples if sample["filter"] == filter_name]
            prefix = "" if len(self._tasks) == 1 else f"{own_name}/"
            ids += [prefix + key for key in numbered([s["doc_hash"][:16] for s in kept])]
            own = [float(sample[metric]) for sample in kept]
            values += own
            self._check_mean(found, own_name, metric, filter_name, own)
        assert chosen is not None
        better = [found["higher_is_better"][own_name].get(chosen[0]) for own_name in self._tasks]
        if better[0] is None or len(set(better)) > 1:
            raise InputError(
                f"task {self.name} does not say whether a higher {chosen[0]} is better; name "
                f"another metric, as {self.name}:METRIC"
            )
        return ItemScores(
            task=self.name,
            metric=chosen[0],
            ids=tuple(ids),
            values=np.array(values),
            sizes=np.ones(len(values)),
            higher_is_better=bool(better[0]),
        )

    def _chosen(self, samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """The metric and the filter that are compared."""
        first = samples[0]
        numbers = [m for m in first["metrics"] if isinstance(first[m], int | float)]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        wanted = self._metric or (numbers[0] if numbers else None)
        if (
            wanted is None
            or wanted not in numbers
            or (self._filter and self._filter not in filters)
        ):
            names = ", ".join([*numbers, *(f"METRIC,{name}" for name in filters[1:])]) or "none"
            asked = f"no metric {self._metric!r}" if self._metric else "no such metric"
            raise InputError(
                f"task {self.name} has {asked} that is a number an item; it has: {names}"
            )
        return wanted, self._filter or filters[0]

    def _check_mean(
        self,
        found: Mapping[str, Any],
        own_name: str,
        metric: str,
        filter_name: str,
        own: list[float],
    ) -> None:
        told = found["results"][own_name].get(f"{metric},{filter_name}")
        if told is None or abs(told - float(np.mean(own))) > 1e-6:
            raise InputError(
                f"task {self.name}: its {metric} is not the mean over items, so it cannot be "
                f"paired item by item; name another metric, as {self.name}:METRIC"
            )


def _resumed(model: LoadedModel, scratch: Path | None) -> AbstractContextManager[Any]:
    """lm-eval's model, with what was answered before an interrupt."""
    harness = model.harness
    # Processes that measure how large a batch may be do it together, also those with nothing left.
    together = harness.world_size > 1 and not model.batch_size.isdecimal()
    if together:
        return contextlib.nullcontext(harness)
    return ResumedHarness(harness, scratch)


def _is_finite(answer: Any) -> bool:
    """Whether no log-likelihood in a model's answers is NaN: the likeliest of those is any."""
    if isinstance(answer, list | tuple):
        return all(map(_is_finite, answer))
    return not (isinstance(answer, float) and math.isnan(answer))
