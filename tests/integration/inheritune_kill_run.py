"""Runs `bequest inheritune` and kills itself, as a power cut would, at one of its training steps.

Usage: inheritune_kill_run.py CONFIG STEP (0: never).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from bequest.cli.main import main
from bequest.training.pretrain_trainer import PretrainTrainer

config, step = sys.argv[1], int(sys.argv[2])
steps = 0
real = PretrainTrainer.training_step


def counted(self: PretrainTrainer, *arguments: Any, **named: Any) -> Any:
    global steps
    steps += 1
    if steps == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments, **named)


PretrainTrainer.training_step = counted  # type: ignore[method-assign]
sys.exit(main(["inheritune", "--config", config, "--quiet"]))
