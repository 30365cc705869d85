"""Runs `bequest finetune` again and again, killed at chosen moments: `SCENARIOS.json FOLDER`.

Each scenario is a list of kills, `[what, number]`: the process dies with SIGKILL
- `step`: before the gradients of that step are computed,
- `archive`: half way through the writing of that `torch.save`, counted from the process's start,
- `file`: when it opens that file of the run for writing,
- `interrupt`: as `step`, but by Ctrl-C.
After the kills the same command runs to its end. One process imports everything and forks for each
start, so that a start costs no imports. Not a test: `test_finetune_resume.py` starts it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama
import trl.trainer.sft_trainer  # noqa: F401
from transformers import Trainer

import bequest.training.finetune
from bequest.cli.main import main


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def arrange(what: str, number: int, run: Path) -> None:
    """Make this process die at a moment."""
    left = [number]

    def reached() -> bool:
        left[0] -= 1
        return left[0] < 0

    if what in ("step", "interrupt"):
        step = Trainer.training_step

        def dying_step(self: Any, *arguments: Any, **options: Any) -> Any:
            if self.state.global_step == number - 1:
                die() if what == "step" else interrupt()
            return step(self, *arguments, **options)

        Trainer.training_step = dying_step
    elif what == "archive":
        save = torch.save

        def dying_save(value: Any, file: Any, *arguments: Any, **options: Any) -> None:
            if reached():
                buffer = io.BytesIO()
                save(value, buffer)
                Path(file).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
                die()
            save(value, file, *arguments, **options)

        torch.save = dying_save
    elif what == "file":

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event != "open" or not isinstance(arguments[0], str | Path):
                return
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and str(arguments[0]).startswith(str(run)) and reached():
                die()

        sys.addaudithook(hook)
    else:
        raise ValueError(what)


def start(words: list[str], run: Path, log: Path, kill: list[Any] | None) -> int:
    """Run the command in a fork and return how it ended."""
    child = os.fork()
    if not child:
        # os._exit, for the copies of what the parent has at its exit are not this process's.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if kill is not None:
            arrange(str(kill[0]), int(kill[1]), run)
        code = 1
        try:
            code = main(words)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def carry_out(scenarios: dict[str, Any], folder: Path) -> None:
    """Write what became of each scenario to `codes.json`."""
    codes: dict[str, list[int]] = {}
    for name, scenario in scenarios.items():
        out = folder / name
        words = ["finetune", *scenario["words"], "--out", str(out)]
        log = folder / f"{name}.log"
        kills = [*scenario["kills"], None]
        codes[name] = [start(words, Path(f"{out}.run"), log, kill) for kill in kills]
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    carry_out(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
