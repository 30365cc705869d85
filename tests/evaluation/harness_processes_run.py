"""A task of lm-eval in two processes over gloo: `torchrun --nproc-per-node 2 THIS FOLDER`.

The second process is slow, so that whatever the first does not wait for is seen.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.evaluation.resumed_harness import ResumedHarness
from bequest.losses.processes import join_processes, leave_processes, rank_and_size


@dataclass(frozen=True)
class Request:
    """As lm-eval's own: what is asked."""

    args: tuple[str, str]


class Scores:
    """The part of lm-eval's model that is asked, as it stands on one process without GPUs."""

    rank, world_size = 0, 1

    def __init__(self) -> None:
        self.asked = 0
        self._hook: Any = None

    def set_cache_hook(self, hook: Any) -> None:
        """Take whom to tell of answers."""
        self._hook = hook

    def loglikelihood(self, requests: list[Request]) -> list[tuple[float, bool]]:
        """Score by the length of what is asked."""
        self.asked += len(requests)
        answers = []
        for request in requests:
            time.sleep(0.1 * rank_and_size()[0])
            answers.append((-float(len(request.args[1])), False))
            self._hook.add_partial("loglikelihood", request.args, answers[-1])
        return answers


def main(folder: Path) -> None:
    """Answer seven requests, of which one is repeated, twice; the second time all is known."""
    join_processes()
    rank = rank_and_size()[0]
    requests = [Request(("a", "b" * (n % 6))) for n in range(7)]
    told = {}
    for time_ in ("first", "again"):
        harness = Scores()
        with ResumedHarness(harness, folder / "kept") as resumed:
            told[time_] = [resumed.loglikelihood(requests), harness.asked]
        told[time_].append(sorted(file.name for file in (folder / "kept").iterdir()))
    (folder / f"told-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
