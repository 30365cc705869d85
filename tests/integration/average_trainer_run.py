"""A run of transformers' Trainer that keeps one checkpoint: `THIS RUN COPIES`.

Not a test: `test_average_follow.py` starts it. Every checkpoint is copied to COPIES as it is saved,
so that the test has what the run deletes.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from averaging import runs


class Copy(TrainerCallback):
    """Copies each checkpoint, and gives a follower a moment as a longer step would."""

    def __init__(self, copies: Path) -> None:
        self._copies = copies

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        shutil.copytree(Path(args.output_dir) / name, self._copies / name)
        time.sleep(0.5)


def main(run: Path, copies: Path) -> None:
    """Train the tiny model for twelve steps, with a checkpoint every two."""
    rows = (np.cumsum(np.ones((32, 12), dtype=np.int64), axis=1) % 64).tolist()
    arguments = TrainingArguments(
        output_dir=str(run),
        max_steps=12,
        save_steps=2,
        save_total_limit=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    Trainer(runs.model(0), arguments, train_dataset=data, callbacks=[Copy(copies)]).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
