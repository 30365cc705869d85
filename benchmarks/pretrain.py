"""Training speed: a loop written out, transformers' bare Trainer, and `bequest pretrain`.

    python -m benchmarks.pretrain
    python -m benchmarks.pretrain --shapes 5m --dtype bfloat16 --blocks 5
    python -m benchmarks.pretrain --shapes 124m --device cuda --batch 16 --length 1024

All three train the same model from the same weights on the same text, `--steps` steps a block, with
the same optimizer (fused AdamW), gradient clipping and learning rate. They take turns, block by
block, in one process, so that a machine that slows down slows all of them. Measured is the time
from a block's first step to its last, between steps, without start-up, evaluation and saving; a
block's first steps are left out. The loop does what training needs and no more: it has its tokens in
memory, logs nothing, and reads no clock but at the ends.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.harness import ROOT, SCRATCH, Spread, digits
from benchmarks.page import provenance, table, write_section
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "5m": (192, 512, 8, 4, 4, 4096),
    "135m": (576, 1536, 30, 9, 3, 49152),
    "124m": (768, 2048, 12, 12, 12, 50304),
}
BROWN = ROOT / ".cache" / "assets" / "brown"
SKIPPED = 2
"""Steps at the start of a block that are not measured: they allocate."""
TOKENIZER = 2048
"""The text is the same for all shapes; larger vocabularies are not filled."""


class Clock(TrainerCallback):
    """Remembers when a block's first measured step began and its last one ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self.end = 0.0

    def seconds(self, steps: int) -> float:
        """Return the seconds a step."""
        return (self.end - self.start) / steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the clock at the two ends."""
        if state.global_step in (SKIPPED, state.max_steps):
            synchronize(self.device)
            now = time.perf_counter()
            if state.global_step == SKIPPED:
                self.start = now
            else:
                self.end = now


def shape_config(shape: str, length: int) -> dict[str, Any]:
    """The fields of a shape's configuration."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": max(2048, length),
        "tie_word_embeddings": True,
    }


def training(options: argparse.Namespace) -> dict[str, Any]:
    """What the Trainer and bequest are both given."""
    return {
        "max_steps": options.steps + SKIPPED,
        "per_device_train_batch_size": options.batch,
        "learning_rate": 1e-4,
        "adam_beta2": 0.95,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": options.dtype == "bfloat16",
        "use_cpu": options.device == "cpu",
        "torch_compile": options.compile,
        "logging_steps": 10,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": options.device != "cpu",
    }


def run_loop(folder: Path, shape: str, options: argparse.Namespace, tokens: np.ndarray) -> float:
    """Seconds a step of a loop written out."""
    device = torch.device(options.device)
    plan = planned(folder, shape, options)
    model: Any = plan.start.load(plan.arguments.seed).to(device)
    model.config.use_cache = False
    model.train()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if options.compile else model
    order = torch.randperm(
        len(tokens) // options.length, generator=torch.Generator().manual_seed(0)
    )
    blocks = torch.from_numpy(tokens[: len(order) * options.length].astype(np.int64))
    blocks = blocks.view(len(order), options.length)
    start = 0.0
    for step in range(options.steps + SKIPPED):
        if step == SKIPPED:
            synchronize(device)
            start = time.perf_counter()
        ids = blocks[order[step * options.batch :][: options.batch]].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    synchronize(device)
    seconds: float = (time.perf_counter() - start) / options.steps
    return seconds


def run_trainer(folder: Path, shape: str, options: argparse.Namespace, tokens: np.ndarray) -> float:
    """Seconds a step of transformers' Trainer, used as its documentation shows."""
    from datasets import Dataset

    count = len(tokens) // options.length
    rows = tokens[: count * options.length].reshape(count, options.length).astype(np.int64)
    data = Dataset.from_dict({"input_ids": list(rows), "labels": list(rows)})
    plan = planned(folder, shape, options)
    model = plan.start.load(plan.arguments.seed)
    clock = Clock(torch.device(options.device))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "bare"), disable_tqdm=True, **training(options)
        ),
        train_dataset=data,
        data_collator=default_data_collator,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds(options.steps)


def run_bequest(folder: Path, shape: str, options: argparse.Namespace, _: np.ndarray) -> float:
    """Seconds a step of `bequest pretrain`."""
    clock = Clock(torch.device(options.device))
    run_pretrain(planned(folder, shape, options), callbacks=[clock])
    return clock.seconds(options.steps)


CONTENDERS: dict[str, Callable[[Path, str, argparse.Namespace, np.ndarray], float]] = {
    "a loop written out": run_loop,
    "transformers' Trainer": run_trainer,
    "bequest pretrain": run_bequest,
}


def planned(folder: Path, shape: str, options: argparse.Namespace) -> Any:
    """The plan of a run on the Brown corpus; its cache is shared by all."""
    return plan_pretrain(
        PretrainConfig(
            out=str(folder / "out"),
            data=str(BROWN / "train.jsonl"),
            held_out=str(BROWN / "held_out.jsonl"),
            # One short text: evaluations are not measured.
            held_out_bytes=2048,
            train_tokenizer=TOKENIZER,
            model_config=shape_config(shape, options.length),
            block_length=options.length,
            schedule="constant",
            warmup=0,
            training=training(options),
            cache_dir=str(SCRATCH / "pretrain-cache"),
            overwrite=True,
        )
    )


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(shape: str, options: argparse.Namespace) -> tuple[dict[str, list[float]], int]:
    """Seconds a step of each, block by block, and the model's parameters."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    names = list(CONTENDERS)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        warm = argparse.Namespace(**{**vars(options), "steps": 1})
        run_bequest(Path(scratch) / "warm", shape, warm, np.empty(0))
        stream = next((SCRATCH / "pretrain-cache").glob("*/training.npy"))
        tokens = np.load(stream)
        plan = planned(Path(scratch) / "count", shape, options)
        parameters = plan.num_parameters
        for block in range(options.blocks):
            # Whoever comes first in a turn comes last in the next but one.
            for name in names[block % 3 :] + names[: block % 3]:
                folder = Path(scratch) / f"{names.index(name)}-{block}"
                seconds[name].append(CONTENDERS[name](folder, shape, options, tokens))
                print(f"  {shape} block {block + 1}: {name}: {seconds[name][-1]:.4f} s", flush=True)
                gc.collect()
    return seconds, parameters


def section(shape: str, options: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    """The Markdown table of one shape."""
    loop, trainer = (seconds[name] for name in list(CONTENDERS)[:2])
    tokens = options.batch * options.length
    rows = []
    for name, taken in seconds.items():
        spread = Spread.of(1000 * value for value in taken)
        against = [
            Spread.of(100 * (mine / theirs - 1) for mine, theirs in zip(taken, base, strict=True))
            for base in (loop, trainer)
        ]
        changes = [
            "" if base is taken else f"{one.median:+.1f} % ({one.low:+.1f} .. {one.high:+.1f})"
            for base, one in zip((loop, trainer), against, strict=True)
        ]
        rows.append([name, str(spread), digits(1000 * tokens / spread.median), *changes])
    columns = ["", "ms a step", "tokens per second", "time against the loop", "against the Trainer"]
    return table(columns, rows)


def main() -> None:
    """Measure every shape and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["5m", "135m"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=0, help="a block; 0: 40, or 8 above 100M")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    options = parser.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        chosen = argparse.Namespace(**vars(options))
        chosen.steps = options.steps or (40 if shape == "5m" or options.device != "cpu" else 8)
        seconds, parameters = measure(shape, chosen)
        assert all(math.isfinite(value) for taken in seconds.values() for value in taken)
        body = section(shape, chosen, seconds)
        about = (
            f"{parameters / 1e6:.1f} million parameters, {chosen.dtype}, {chosen.device}, "
            f"{torch.get_num_threads()} threads, {chosen.batch} x {chosen.length} tokens a step, "
            f"{options.blocks} blocks of {chosen.steps} steps in turn"
            f"{', torch.compile' if chosen.compile else ''}; start-up, evaluation and saving not "
            "counted. Differences are of the same turn.\n\n"
        )
        print(f"\n{about}{body}")
        if not options.dry:
            versions = provenance(packages=["torch", "transformers", "accelerate"], folder=SCRATCH)
            name = f"pretrain-{shape}" + ("" if chosen.device == "cpu" else f"-{chosen.device}")
            write_section(name, f"Training: {shape}", f"{about}{body}\n{versions}")


if __name__ == "__main__":
    main()
