"""lm-eval's model whose answers are kept as they come, so that an interrupted task goes on.

lm-eval has a cache of its own. It unpickles what it finds in a file, which may be anybody's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bequest.evaluation.kept import KeptAnswers


class ResumedHarness:
    """Runs only those requests that no earlier run has answered.

    To be used in a `with` block, after which the model answers on its own again.

    Args:
        harness: lm-eval's model.
        folder: where answers are kept.
    """

    def __init__(self, harness: Any, folder: Path) -> None:
        self._harness = harness
        self._kept = KeptAnswers(folder, harness.rank, "requests")

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
        known = self._kept.found
        left = [(r, key) for r, key in zip(requests, keys, strict=True) if key not in known]
        # Here are the answers as lm-eval gives them in the end; those on disk are the same.
        told = own([request for request, _ in left], **options) if left else []
        found = known | {key: answer for (_, key), answer in zip(left, told, strict=True)}
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
