"""Fine-tune with FLOW: the script one has for TRL's SFTTrainer, with one word changed.

    python examples/flow_sft.py --model HuggingFaceTB/SmolLM2-135M-Instruct --data train.jsonl \
        --out run

The data is in any form that SFTTrainer takes: `prompt` and `completion`, `messages`, or `text`.
"""

from __future__ import annotations

import argparse

import torch
from datasets import load_dataset
from trl import SFTConfig

import bequest


def main() -> None:
    """Train, and say how the weights turned out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--data", required=True, help="a JSON lines file")
    parser.add_argument("--out", required=True, help="folder for the trained model")
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--packing", action="store_true")
    options = parser.parse_args()

    trainer = bequest.FlowTrainer(  # <- was SFTTrainer
        model=options.model,
        args=SFTConfig(
            output_dir=options.out,
            max_steps=options.steps,
            packing=options.packing,
            max_length=512,
            per_device_train_batch_size=4,
            learning_rate=1e-5,
            logging_steps=1,
            report_to="none",
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=load_dataset("json", data_files=options.data, split="train"),
    )
    trainer.train()
    trainer.save_model()
    trainer.processing_class.save_pretrained(options.out)


if __name__ == "__main__":
    main()
