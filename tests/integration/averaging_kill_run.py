"""A run with averages that is killed on purpose: `RUN KILL_STEP KILL_BYTES`, resumed by itself.

KILL_STEP is the step after which the process kills itself; KILL_BYTES, if not negative, how many
bytes averaging may still write from that step on before it does, so that it dies inside a save.
Not a test: `test_averaging_kill.py` starts it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bequest.averaging.live import WeightAverages
from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    StochasticWeightAverage,
)

STEPS = 16
SAVE_EVERY = 4


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(bytes_left: int) -> None:
    """Count what is written to any file and die in the middle of a write."""
    left = [bytes_left]
    original = Path.open

    class Dying:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: Any) -> None:
            if len(data) > left[0]:
                self._file.write(data[: left[0]])
                self._file.flush()
                die()
            left[0] -= len(data)
            self._file.write(data)

    def dying_open(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = original(path, mode, *args, **kwargs)
        return Dying(file) if "w" in mode else file

    Path.open = dying_open  # type: ignore[method-assign, assignment]


def main(run: Path, kill_step: int, kill_bytes: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.Tanh(), torch.nn.Linear(50, 40))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    averages = WeightAverages(
        run,
        lawa=LatestWeightAverage(window=3, spacing=3, coefficients="linear"),
        ema=ExponentialMovingAverage(beta=0.9),
        swa=StochasticWeightAverage(start=5, every=2),
    )
    # A checkpoint without its last file is not complete and is not resumed from.
    done = sorted(int(f.parent.name.split("-")[1]) for f in run.glob("checkpoint-*/done"))
    first = 1
    if done:
        checkpoint = run / f"checkpoint-{done[-1]}"
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averages.load(checkpoint, model)
        first = done[-1] + 1
    for step in range(first, STEPS + 1):
        if step == kill_step and kill_bytes >= 0:
            die_after(kill_bytes)
        inputs = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(step, model, optimizer)
        if step % SAVE_EVERY == 0:
            checkpoint = run / f"checkpoint-{step}"
            averages.save(checkpoint)
            buffer = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
            (checkpoint / "state.pt").write_bytes(buffer.getvalue())
            (checkpoint / "done").touch()
        if step == kill_step and kill_bytes < 0:
            die()
    averages.finish()
    for name in averages.names:
        save_file(dict(averages.average(name)), run / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
