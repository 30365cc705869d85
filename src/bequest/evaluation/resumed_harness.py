"""lm-eval's model whose answers are kept as they come, so that an interrupted task goes on.

lm-eval has a cache of its own. It unpickles what it finds in a file, which may be anybody's.
Its own sharing of the work needs several GPUs; elsewhere each of a run's processes would answer
everything, so that the work is shared here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bequest.evaluation.kept import KeptAnswers
from bequest.losses.processes import from_all, rank_and_size, share_of


class ResumedHarness:
    """Runs only those requests that no earlier run has answered.

    To be used in a `with` block, after which the model answers on its own again.

    Args:
        harness: lm-eval's model.
        folder: where answers are kept; None keeps nothing on disk.
    """

    def __init__(self, harness: Any, folder: Path | None) -> None:
        self._harness = harness
        self._kept = KeptAnswers(folder, rank_and_size()[0], "requests")

    def __enter__(self) -> ResumedHarness:
        """Ask the model to tell of each answer as it has it."""
        self._harness.set_cache_hook(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask it no more."""
        from lm_eval.api.model import CacheHook

        self._harness.set_cache_hook(CacheHook(None))

    def __getattr__(self, name: str) -> Any:
        """All else is the model's own, `loglikelihood_rolling` too: its processes keep in step."""
        return getattr(self._harness, name)

    def add_partial(self, method: str, arguments: Any, answer: Any) -> None:
        """Keep an answer; lm-eval calls this."""
        if _repeats(method, arguments):
            self._kept.keep([(_key(method, arguments), answer)])

    def loglikelihood(self, requests: Sequence[Any], **options: Any) -> list[Any]:
        """Return the log-likelihood of each request, and whether it is the greedy text."""
        found = self._answers("loglikelihood", requests, options)
        return [(float(value), bool(greedy)) for value, greedy in found]

    def generate_until(self, requests: Sequence[Any], **options: Any) -> list[Any]:
        """Return the text that follows each request."""
        return self._answers("generate_until", requests, options)

    def _answers(self, method: str, requests: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        own = getattr(self._harness, method)
        if not all(_repeats(method, request.args) for request in requests):
            return list(own(requests, **options))
        keys = [_key(method, request.args) for request in requests]
        rank, size = (0, 1) if self._harness.world_size > 1 else rank_and_size()
        # By the request and not by what is left: a process may have found more on disk than others.
        mine = share_of(
            list(dict(zip(keys, requests, strict=True)).items()), rank, size, in_step=False
        )
        known = self._kept.found
        left = [(key, request) for key, request in mine if key not in known]
        # Here are the answers as lm-eval gives them in the end; those on disk are the same.
        told = own([request for _, request in left], **options) if left else []
        found = known | {key: answer for (key, _), answer in zip(left, told, strict=True)}
        if size > 1:
            for share in from_all({key: found[key] for key, _ in mine}):
                found |= share
        return [found[key] for key in keys]


def _repeats(method: str, arguments: Any) -> bool:
    """Whether the same request gets the same answer again: not if it is drawn at random."""
    if method == "loglikelihood":
        return True
    return method == "generate_until" and not (
        arguments[1].get("do_sample") or arguments[1].get("temperature")
    )


def _key(method: str, arguments: Any) -> str:
    asked = json.dumps([method, list(arguments)], sort_keys=True, default=str)
    return hashlib.sha256(asked.encode()).hexdigest()
