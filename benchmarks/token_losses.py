"""Samples scored per second: the engine, the FLOW authors' way, and the floor, in turn.

`python -m benchmarks.token_losses` takes SmolLM2-135M from `.cache/assets` (`make assets`),
or a random model of its shape where that is not there. The samples have mixed lengths and a prompt
that is not scored. The authors' way is two dense passes over unsorted batches of 16. The floor is
the body over as many tokens with no padding, and the head's product at the scored positions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.harness import ROOT, BenchmarkError, Spread, digits
from benchmarks.page import provenance, table, write_section
from benchmarks.peak import PeakMemory
from bequest.losses.token_losses import token_losses

ASSET = ROOT / ".cache" / "assets" / "SmolLM2-135M-Instruct"
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
Samples = tuple[list[list[int]], list[list[int]]]


def load(dtype: torch.dtype, layers: int | None) -> tuple[Any, str]:
    """Return the model and what to call it."""
    if ASSET.is_dir() and layers is None:
        return AutoModelForCausalLM.from_pretrained(ASSET, dtype=dtype).eval(), ASSET.name
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": layers or SHAPE["num_hidden_layers"]}
    config = AutoConfig.for_model("llama", **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return model, f"a random model of SmolLM2's shape, {shape['num_hidden_layers']} layers"


def mixed_samples(count: int, longest: int, classes: int) -> Samples:
    """Sequences of log-normal length around 150 tokens, of which a fifth to a half is prompt."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for length in np.clip(rng.lognormal(5.0, 0.8, count), 16, longest).astype(int):
        rows.append(rng.integers(0, classes, length).tolist())
        prompt = int(length * rng.uniform(0.2, 0.5))
        labels.append([-100] * prompt + rows[-1][prompt:])
    return rows, labels


@torch.no_grad()
def dense_pass(model: Any, rows: list[list[int]], labels: list[list[int]]) -> list[float]:
    """Mean losses by whole logits, in the order and the batches of 16 that the data comes in."""
    means: list[float] = []
    for start in range(0, len(rows), 16):
        batch, wanted = rows[start : start + 16], labels[start : start + 16]
        longest = max(map(len, batch))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        targets = torch.tensor([row + [-100] * (longest - len(row)) for row in wanted])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.transpose(1, 2), targets[:, 1:], reduction="none")
        means += (losses.sum(1) / (targets[:, 1:] != -100).sum(1)).tolist()
    return means


def authors(model: Any, samples: Samples, tokens_per_batch: int) -> list[float]:
    """One pass for the temperature, and one for the weights."""
    dense_pass(model, *samples)
    return dense_pass(model, *samples)


def engine(model: Any, samples: Samples, tokens_per_batch: int) -> list[float]:
    """What this benchmark is about."""
    losses = token_losses(model, *samples, tokens_per_batch=tokens_per_batch)
    return [float(np.nanmean(row, dtype=np.float64)) for row in losses]


@torch.no_grad()
def floor(model: Any, samples: Samples, tokens_per_batch: int) -> list[float]:
    """Run the same number of tokens in full rectangles, and the product at the scored positions."""
    rows, labels = samples
    total = sum(map(len, rows))
    length = total // len(rows)
    scored = sum(label != -100 for row in labels for label in row)
    height = max(1, tokens_per_batch // length)
    left = total // length
    while left > 0:
        ids = torch.randint(0, 1000, (min(height, left), length))
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        for piece in hidden[: round(len(hidden) * scored / total)].split(341):
            model.lm_head(piece)
        left -= height
    return []


CONTENDERS: dict[str, Callable[[Any, Samples, int], list[float]]] = {
    "bequest": engine,
    "two dense passes, unsorted batches of 16": authors,
    "floor": floor,
}


def exact(model: Any, samples: Samples, count: int) -> list[float]:
    """Mean losses of the first samples, one at a time, in float64."""
    rows, labels = samples
    exact_model = type(model)(model.config).double().eval()
    exact_model.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    return [dense_pass(exact_model, [rows[i]], [labels[i]])[0] for i in range(count)]


def main() -> None:
    """Measure, print the table, and write it down if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--layers", type=int, help="a random model with as many layers instead")
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exact", type=int, default=4, help="samples compared with float64")
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    options = parser.parse_args()
    model, name = load(getattr(torch, options.dtype), options.layers)
    samples = mixed_samples(options.samples, options.longest, model.config.vocab_size)
    engine(model, (samples[0][:2], samples[1][:2]), 1024)  # libraries are loaded
    seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    peaks: dict[str, int] = {}
    found: dict[str, list[float]] = {}
    for turn in range(options.repeats):
        for contender, run in CONTENDERS.items():
            peak = PeakMemory("cpu")
            started = time.perf_counter()
            found[contender] = run(model, samples, options.tokens_per_batch)
            seconds[contender].append(time.perf_counter() - started)
            peaks.setdefault(contender, peak.bytes())
            print(f"  turn {turn + 1}: {contender}: {seconds[contender][-1]:.1f} s", flush=True)
    body = report(options, name, samples, seconds, peaks) + agreement(
        options, found, exact(model, samples, options.exact)
    )
    body += "\n" + provenance(packages=["torch", "transformers"], folder=ROOT)
    print(body)
    if not options.print:
        write_section(f"token-losses-{options.dtype}", f"Token losses, {options.dtype}", body)


def report(
    options: argparse.Namespace,
    name: str,
    samples: Samples,
    seconds: dict[str, list[float]],
    peaks: dict[str, int],
) -> str:
    """Return what was measured as Markdown."""
    lengths = [len(row) for row in samples[0]]
    lowest = Spread.of(seconds["floor"]).median
    rows = []
    for contender, taken in seconds.items():
        spread = Spread.of(taken)
        rate = digits(len(lengths) / spread.median)
        times_floor = f"{spread.median / lowest:.2f}"
        rows.append([contender, str(spread), rate, times_floor, f"{peaks[contender] / 1e6:.0f}"])
    columns = ["way", "seconds", "samples per second", "times the floor", "MB above the model"]
    return (
        f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all, "
        f"under {name}, {options.dtype}.\n\n{table(columns, rows)}\n"
    )


def agreement(
    options: argparse.Namespace, found: dict[str, list[float]], expected: list[float]
) -> str:
    """Say how far the losses are from float64; raise if they are not the same losses."""
    lines = []
    allowed = 1e-4 if options.dtype == "float32" else 5e-2
    for contender in ("bequest", "two dense passes, unsorted batches of 16"):
        pairs = zip(found[contender], expected, strict=False)
        off = max(abs(got - want) for got, want in pairs)
        if off > allowed:
            raise BenchmarkError(f"the losses of {contender} are off by {off}")
        lines.append(f"{contender} {off:.1e}")
    return (
        f"Largest difference of a sample's mean loss from a float64 pass over the same weights, "
        f"{len(expected)} samples: {', '.join(lines)} nats.\n"
    )


if __name__ == "__main__":
    main()
