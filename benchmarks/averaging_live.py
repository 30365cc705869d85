"""What live averages cost: a run's steps with and without them, and a snapshot by itself.

    python -m benchmarks.averaging_live
    python -m benchmarks.averaging_live --shape 5m --blocks 2 --print
    python -m benchmarks.averaging_live --shape 1b --device cuda --dtype bfloat16 --kinds lawa ema

One model is trained; the kinds take turns, block by block, so that a machine that slows down slows
all of them. A block with LAWA holds one snapshot, taken at its second step, and ends when that is
on the disk, so its whole cost falls into the block. A real run has one in `--spacing` steps, more
than a block can hold: the cost is told as a share of so many steps. As a difference of blocks
drowns in their spread when it is small, the snapshot is also measured by itself, between blocks:
how long it holds up the loop, how long until it is on the disk, and its CPU seconds, all threads.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import SCRATCH, Spread, digits
from benchmarks.page import provenance, table, write_section
from benchmarks.pretrain import SHAPES as TRAINED
from benchmarks.pretrain import synchronize
from bequest import ExponentialMovingAverage, LatestWeightAverage, WeightAverages

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    **TRAINED,
    "tiny": (64, 128, 2, 4, 2, 512),
    "1b": (2048, 8192, 16, 32, 8, 49152),
}
KINDS = ("lawa", "ema", "ema/10")
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Block:
    """What some steps took."""

    wall: float
    """Seconds, until the averages' files are on the disk."""
    cpu: float
    """User and system seconds of all threads."""
    device_bytes: int = 0
    """Most memory that the device had in use."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one snapshot took by itself."""

    held: float
    """Seconds that `update` took."""
    wall: float
    """Seconds until its file was on the disk."""
    cpu: float
    """User and system seconds of all threads."""


@dataclass(kw_only=True)
class Run:
    """The model that all kinds train on, in turns."""

    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    ids: torch.Tensor
    steps: int
    """Of a block."""
    turn: int = 0
    """Blocks done; step numbers only go up."""
    averages: dict[str, WeightAverages] = field(default_factory=dict)

    def block(self, kind: str) -> Block:
        """Train a block; its second step is one at which LAWA is due."""
        self.turn += 1
        averages = self.averages.get(kind)
        if self.ids.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        start, cpu = self._now(), cpu_seconds()
        first = self.turn * self.steps - 1
        for step in range(first, first + self.steps):
            self.model(input_ids=self.ids, labels=self.ids).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if averages is not None:
                averages.update(step, self.model, self.optimizer)
        if averages is not None:
            averages.finish()
        return Block(
            wall=self._now() - start,
            cpu=cpu_seconds() - cpu,
            device_bytes=torch.cuda.max_memory_allocated() if self.ids.is_cuda else 0,
        )

    def snapshot(self, kind: str) -> Snapshot:
        """Take a snapshot while nothing else is done."""
        self.turn += 1
        averages = self.averages[kind]
        start, cpu = self._now(), cpu_seconds()
        averages.update(self.turn * self.steps, self.model, self.optimizer)
        held = time.perf_counter() - start
        averages.finish()
        return Snapshot(held=held, wall=self._now() - start, cpu=cpu_seconds() - cpu)

    def _now(self) -> float:
        synchronize(self.ids.device)
        return time.perf_counter()


def cpu_seconds() -> float:
    """User and system seconds of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def start(options: argparse.Namespace, folder: Path) -> Run:
    """A randomly initialised model of a known shape, its optimizer, and the kinds' averages."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[options.shape]
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
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(getattr(torch, options.dtype))
        ids = torch.randint(vocabulary, (options.batch, options.length))
    made = Run(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True),
        ids=ids,
        steps=options.steps,
    )
    recipes: dict[str, Any] = {
        "lawa": LatestWeightAverage(window=5, spacing=options.steps),
        "ema": ExponentialMovingAverage(beta=0.999),
        "ema/10": ExponentialMovingAverage(beta=0.99, every=10),
    }
    for kind in options.kinds:
        name = kind.replace("/", "_")
        made.averages[kind] = WeightAverages(folder / name, **{name: recipes[kind]})
    return made


def measure(
    options: argparse.Namespace,
) -> tuple[dict[str, list[Block]], list[Snapshot], int]:
    """Run every kind in turn; also return the model's parameters."""
    blocks: dict[str, list[Block]] = {kind: [] for kind in (NONE, *options.kinds)}
    snapshots: list[Snapshot] = []
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        run = start(options, Path(scratch))
        for kind in options.kinds:  # the first update allocates: not a step's usual cost
            run.block(kind)
        names = list(blocks)
        for turn in range(options.blocks):
            # Whoever comes first in a turn comes last in the next.
            for kind in names if turn % 2 else reversed(names):
                gc.collect()
                blocks[kind].append(run.block(kind))
                print(f"  turn {turn + 1}: {kind}: {blocks[kind][-1].wall:.2f} s", flush=True)
            if "lawa" in options.kinds:
                snapshots.append(run.snapshot("lawa"))
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
    return blocks, snapshots, parameters


def section(
    options: argparse.Namespace, blocks: dict[str, list[Block]], snapshots: Sequence[Snapshot]
) -> str:
    """The Markdown tables."""
    plain = blocks[NONE]
    step_wall = Spread.of(block.wall / options.steps for block in plain).median
    step_cpu = Spread.of(block.cpu / options.steps for block in plain).median
    rows = []
    for kind, taken in blocks.items():
        more = Spread.of(b.wall - n.wall for b, n in zip(taken, plain, strict=True))
        memory = Spread.of(block.device_bytes / 1e6 for block in taken).median
        rows.append(
            [
                kind,
                str(Spread.of(1000 * block.wall / options.steps for block in taken)),
                str(Spread.of(block.cpu / options.steps for block in taken)),
                ""
                if kind == NONE
                else f"{more.median:+.2f} s ({more.low:+.2f} .. {more.high:+.2f})",
                digits(memory) if memory else "",
            ]
        )
    columns = ["averages", "ms a step", "CPU s a step", "a block against none", "device MB"]
    text = table(columns, rows)
    if snapshots:
        shares = [
            ("holds up the loop", [s.held for s in snapshots], step_wall),
            ("is on the disk after", [s.wall for s in snapshots], None),
            ("CPU seconds, user and system", [s.cpu for s in snapshots], step_cpu),
        ]
        rows = [
            [name, str(Spread.of(values)), _share(values, step, options.spacing)]
            for name, values, step in shares
        ]
        columns = ["one LAWA snapshot by itself", "seconds", f"share of {options.spacing} steps"]
        text += "\n" + table(columns, rows)
    return text


def _share(values: Sequence[float], step: float | None, spacing: int) -> str:
    return "" if step is None else f"{100 * Spread.of(values).median / (spacing * step):.2f} %"


def parser() -> argparse.ArgumentParser:
    """Return what may be asked."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.averaging_live")
    made.add_argument("--shape", choices=SHAPES, default="135m")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--kinds", nargs="+", choices=KINDS, default=["lawa"])
    made.add_argument("--steps", type=int, default=10, help="of a block; at least 2")
    made.add_argument("--blocks", type=int, default=9, help="of each kind")
    made.add_argument("--spacing", type=int, default=100, help="to which costs are related")
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--length", type=int, default=256)
    made.add_argument("--print", action="store_true", help="and leave RESULTS.md as it is")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the section."""
    options = parser().parse_args(arguments)
    if options.steps < 2 or options.blocks < 1:
        print("--steps must be at least 2 and --blocks at least 1", file=sys.stderr)
        return 2
    SCRATCH.mkdir(parents=True, exist_ok=True)
    blocks, snapshots, parameters = measure(options)
    about = (
        f"{parameters / 1e6:.1f} million parameters, {options.dtype}, {options.device}, "
        f"{torch.get_num_threads()} threads, {options.batch} x {options.length} tokens a step, "
        f"{options.blocks} blocks of {options.steps} steps of each in turn. A block with LAWA holds "
        "one snapshot and ends when it is on the disk; differences are of the same turn. A snapshot "
        "by itself is taken between blocks. CPU seconds are those of the process; what the kernel "
        "does later to write pages out is not in them.\n\n"
    )
    body = section(options, blocks, snapshots)
    print(f"\n{about}{body}")
    if not options.print:
        versions = provenance(packages=["torch", "transformers"], folder=SCRATCH)
        name = f"averaging-live-{options.shape}"
        name += "" if options.device == "cpu" else f"-{options.device}"
        write_section(name, f"Live averages: {options.shape}", f"{about}{body}\n{versions}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
