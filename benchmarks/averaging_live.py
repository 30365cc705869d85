"""What live averages cost: step time and memory with and without them, in one run.

    python benchmarks/averaging_live.py --shape smollm2 --spacing 100 --blocks 2
    python benchmarks/averaging_live.py --shape 1b --device cuda --dtype bfloat16

A block is `--spacing` steps, so each block holds one LAWA snapshot. The kinds take turns, block by
block, so that a machine that slows down slows all of them; the members' writing in the background
falls into the block. `in update` is the time that `WeightAverages.update` itself holds up the loop.
Prints a Markdown table; `--out FILE` appends it there.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bequest import ExponentialMovingAverage, LatestWeightAverage, WeightAverages

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 512),
    "smollm2": (576, 1536, 30, 9, 3, 49152),
    "124m": (768, 2048, 12, 12, 12, 50304),
    "1b": (2048, 8192, 16, 32, 8, 49152),
}


def build(shape: str, device: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """A randomly initialised model of a known shape."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype)


def recipes(kind: str, spacing: int) -> dict[str, Any]:
    """The averages of a kind such as `lawa+ema`."""
    known = {
        "lawa": LatestWeightAverage(window=5, spacing=spacing),
        "ema": ExponentialMovingAverage(beta=0.999),
        "ema/10": ExponentialMovingAverage(beta=0.99, every=10),
    }
    return {name: known[name] for name in kind.split("+") if name in known}


def block(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    averages: WeightAverages | None,
    ids: torch.Tensor,
    steps: range,
) -> tuple[float, float]:
    """Train some steps; seconds in all, and seconds within update."""
    synchronize(ids.device)
    start, inside = time.perf_counter(), 0.0
    for step in steps:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if averages is not None:
            entered = time.perf_counter()
            averages.update(step, model, optimizer)
            inside += time.perf_counter() - entered
    synchronize(ids.device)
    return time.perf_counter() - start, inside


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Run every kind in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--spacing", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--kinds", nargs="+", default=["none", "lawa", "ema", "ema/10", "lawa+ema"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    model = build(options.shape, options.device, getattr(torch, options.dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (options.batch, options.length), device=options.device)
    block(model, optimizer, None, ids, range(1, 4))  # warm-up

    seconds: dict[str, list[float]] = {kind: [] for kind in options.kinds}
    inside: dict[str, list[float]] = {kind: [] for kind in options.kinds}
    device_mb: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for _ in range(options.blocks):
            for kind in options.kinds:
                named = recipes(kind, options.spacing)
                averages = (
                    WeightAverages(Path(folder) / kind.replace("/", "-"), **named)
                    if named
                    else None
                )
                if averages is not None:
                    # The first update allocates shadows and buffers: not a step's usual cost.
                    block(
                        model, optimizer, averages, ids, range(options.spacing, options.spacing + 1)
                    )
                    averages.finish()
                if ids.is_cuda:
                    torch.cuda.reset_peak_memory_stats()
                first = options.spacing + 1
                total, within = block(
                    model, optimizer, averages, ids, range(first, first + options.spacing)
                )
                seconds[kind].append(total / options.spacing)
                inside[kind].append(within / options.spacing)
                if ids.is_cuda:
                    device_mb[kind] = torch.cuda.max_memory_allocated() / 1e6
                if averages is not None:
                    averages.finish()
                del averages
                gc.collect()
    report(options, seconds, inside, device_mb)


def report(
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    inside: dict[str, list[float]],
    device_mb: dict[str, float],
) -> None:
    """Print the table."""
    base = statistics.median(seconds[options.kinds[0]])
    lines = [
        f"## Live averages: {options.shape}, {options.dtype}, {options.device}, "
        f"{options.batch} x {options.length} tokens a step, spacing {options.spacing}, "
        f"{options.blocks} blocks",
        "",
        "| averages | ms a step (each block) | against none | in update | device MB |",
        "|---|---|---|---|---|",
    ]
    for kind in options.kinds:
        each = ", ".join(f"{1000 * value:.1f}" for value in seconds[kind])
        median, within = statistics.median(seconds[kind]), statistics.median(inside[kind])
        device = f"{device_mb[kind]:.0f}" if kind in device_mb else "-"
        lines.append(
            f"| {kind} | {1000 * median:.1f} ({each}) | {100 * (median / base - 1):+.2f} % | "
            f"{100 * within / base:.2f} % | {device} |"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    lines += ["", f"Peak host memory of the whole process: {peak:.0f} MB.", ""]
    print("\n".join(lines))
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
