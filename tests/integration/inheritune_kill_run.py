"""Runs of `bequest inheritune` that are killed on purpose, each in a fork: `JOBS.json`, a list of
`{"words": [...], "kill": ["step", 3] | ["module.function", 1] | null}`.

The process dies with SIGKILL before its training step of that number, or instead of that call of a
function, counted from 0. Prints a JSON list of how each ended: its exit status, negative for a
signal. One process imports the libraries once. Not a test: `test_inheritune_killed.py` starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import bequest.training.inheritune  # noqa: F401
from bequest.cli.main import main
from bequest.training.pretrain_trainer import PretrainTrainer


def arrange(what: str, number: int) -> None:
    """Make this process die at a moment."""
    owner: Any = PretrainTrainer
    name = "training_step"
    if what != "step":
        module, name = what.rsplit(".", 1)
        owner = importlib.import_module(module)
    real, left = getattr(owner, name), [number - 1 if what == "step" else number]

    def dying(*arguments: Any, **named: Any) -> Any:
        if name == "rmtree" and not Path(arguments[0]).name.startswith(".removed-"):
            return real(*arguments, **named)
        if left[0] == 0:
            if name == "rmtree":
                # Half of what the run removes is gone.
                next(p for p in Path(arguments[0]).rglob("*") if p.is_file()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*arguments, **named)

    setattr(owner, name, dying)


def carry_out(jobs: list[dict[str, Any]]) -> None:
    """Run one after another."""
    ended = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if job["kill"] is not None:
                    arrange(*job["kill"])
                code = main(["inheritune", *job["words"], "--quiet"])
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(ended) + "\n")


if __name__ == "__main__":
    carry_out(json.loads(Path(sys.argv[1]).read_text()))
