"""Pre-training runs that are killed on purpose, each in a fork: `JOBS.json`, a list of
`{"config": {...}, "kill": "step:7" | "save:8:optimizer" | "tokenize" | null}`.

Prints a JSON list of how each ended: its exit status, negative for a signal. One process imports
the libraries once; it does nothing else, so that its forks start clean. Not a test:
`test_pretrain_killed.py` starts it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainerCallback, TrainerState

import bequest.training.pretrain as driver
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain
from bequest.training.pretrain_trainer import PretrainTrainer


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            die()


def cut(file: Path) -> None:
    """Leave a file half written."""
    os.truncate(file, file.stat().st_size // 2)
    die()


def prepare(kill: str) -> None:
    """Make the process die at a moment of saving, or of tokenizing."""
    moment, *rest = kill.split(":")
    if moment == "tokenize":
        datasets.Dataset.map = die
        return
    if moment == "publish":
        driver.write_finished = die
        return
    step, what = int(rest[0]), rest[1]

    def dying(owner: Any, name: str, after: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            at = self.global_step if isinstance(self, TrainerState) else self.state.global_step
            done = original(self, *arguments, **named)
            folder = Path(str(arguments[0])) if arguments else Path()
            in_checkpoint = f"checkpoint-{step}" in folder.parts
            if at == step and in_checkpoint and "averaging" not in folder.parts:
                after(folder)
            return done

        setattr(owner, name, method)

    if what == "model":
        dying(PretrainTrainer, "save_model", lambda folder: cut(folder / "model.safetensors"))
    elif what == "optimizer":
        dying(PretrainTrainer, "_save_optimizer_and_scheduler", lambda f: cut(f / "optimizer.pt"))
    elif what == "generators":
        dying(PretrainTrainer, "_save_rng_state", die)
    elif what == "state":
        dying(TrainerState, "save_to_json", cut)


def run(job: dict[str, Any]) -> None:
    callbacks = []
    kill = job["kill"]
    if kill is not None and kill.startswith("step:"):
        callbacks.append(KillAfter(int(kill.split(":")[1])))
    elif kill is not None:
        prepare(kill)
    driver.run_pretrain(plan_pretrain(PretrainConfig(**job["config"])), callbacks=callbacks)


def main(jobs: list[dict[str, Any]]) -> None:
    ended = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            try:
                run(job)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(ended) + "\n")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
