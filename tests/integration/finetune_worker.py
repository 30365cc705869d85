"""`bequest` in one of the processes of torchrun, dying at a micro-batch if told to.

Not a test: `test_finetune_resume.py` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from transformers import Trainer

from bequest.cli.main import main

LAST = os.environ["KILL_AT_MICRO_BATCH"]
step = Trainer.training_step
done = 0


def dying_step(self: Any, *arguments: Any, **options: Any) -> Any:
    """Train on a micro-batch, or die."""
    global done
    done += 1
    if LAST and done == int(LAST):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **options)


Trainer.training_step = dying_step
sys.exit(main(sys.argv[1:]))
