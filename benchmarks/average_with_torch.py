"""Average whole models in turn, as LAWA's released script does: `THIS RUN OUT`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(run: Path, out: Path) -> None:
    """Load every checkpoint as a model, add up its state dict, and save the mean."""
    folders = sorted(run.iterdir(), key=lambda folder: int(folder.name.split("-")[1]))
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        for name, tensor in model.state_dict().items():
            if name in total:
                total[name] += tensor
            else:
                total[name] = tensor.clone()
    model.load_state_dict({name: tensor / len(folders) for name, tensor in total.items()})
    model.save_pretrained(out)
    for file in folders[-1].glob("tokenizer*"):
        shutil.copyfile(file, out / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
