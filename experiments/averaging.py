"""LAWA, EMA, SWA and WSM along one run: a constant high rate, then a decay.

    python -m experiments.averaging --seeds 0 1 2

Trains a small decoder on the Brown corpus (`make assets`), keeps every average live and measures
all of them on the same held-out tokens. A seed that is done is not run again; the figure and
RESULTS.md are made from all seeds that are.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import bequest

ROOT = Path(__file__).resolve().parent.parent
BROWN = ROOT / ".cache" / "assets" / "brown"
CACHE = ROOT / ".cache" / "experiments" / "averaging"
FIGURE = ROOT / "docs" / "averaging.png"
RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- averaging:begin -->", "<!-- averaging:end -->"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run; all seeds share it."""

    vocab_size: int = 4096
    """Entries of the byte-level BPE tokenizer trained on the training texts."""
    hidden_size: int = 192
    """Width; four heads."""
    num_hidden_layers: int = 4
    """Blocks."""
    block_length: int = 128
    """Tokens of a sequence."""
    batch_size: int = 16
    """Sequences of a step."""
    learning_rate: float = 4e-3
    """Of AdamW (0.9, 0.95), weight decay 0.1, gradient norm at most 1."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    constant_until: int = 800
    """Step at which the decay to zero begins, linearly."""
    steps: int = 1000
    """Steps in all."""
    spacing: int = 10
    """Steps between the snapshots of LAWA and WSM."""
    evaluate_every: int = 50
    """Steps between measurements."""
    held_out_sequences: int = 160
    """Sequences of the measurement, the same for all."""


def averages_of(run: Path, settings: Settings) -> bequest.WeightAverages:
    """Every average that the run keeps."""
    return bequest.WeightAverages(
        run,
        lawa=bequest.LatestWeightAverage(window=5, spacing=settings.spacing),
        wsm=bequest.LatestWeightAverage(
            window=9, spacing=settings.spacing, coefficients="decay:1-sqrt"
        ),
        ema=bequest.ExponentialMovingAverage(beta=0.98),
        swa=bequest.StochasticWeightAverage(start=settings.constant_until * 3 // 4, every=10),
    )


def sequences(settings: Settings, name: str, tokenizer: Tokenizer) -> Tensor:
    """The texts of a split as token blocks, shape (N, block_length)."""
    lines = (BROWN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ids: list[int] = []
    for line in lines:
        ids += [0, *tokenizer.encode(json.loads(line)["text"]).ids]
    length = settings.block_length
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).view(count, length)


def train_tokenizer(settings: Settings) -> Tokenizer:
    """A byte-level BPE tokenizer of the training texts; token 0 stands before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=["<text>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (BROWN / "train.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    return tokenizer


def build(settings: Settings) -> LlamaForCausalLM:
    """A decoder from scratch."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocab_size,
            hidden_size=settings.hidden_size,
            intermediate_size=settings.hidden_size * 8 // 3,
            num_hidden_layers=settings.num_hidden_layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=True,
        )
    )


def rate(step: int, settings: Settings) -> float:
    """The learning rate of a step, counted from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if step <= settings.constant_until:
        return settings.learning_rate
    left = settings.steps - step
    return settings.learning_rate * left / (settings.steps - settings.constant_until)


@torch.no_grad()
def loss_on(model: nn.Module, blocks: Tensor) -> float:
    """Mean loss in nats a token."""
    losses = [model(input_ids=ids, labels=ids).loss.item() for ids in blocks.split(32)]
    return float(np.mean(losses))


def batches(blocks: Tensor, settings: Settings, seed: int) -> Iterator[Tensor]:
    """Shuffled epochs of the training blocks, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(blocks), generator=generator)
        for chosen in order.split(settings.batch_size):
            if len(chosen) == settings.batch_size:
                yield blocks[chosen]


def run_seed(seed: int, settings: Settings, trained_on: Tensor, held_out: Tensor) -> Path:
    """Train one run and write its curves; return their file."""
    done = CACHE / f"seed-{seed}.json"
    if done.exists() and json.loads(done.read_text())["settings"] == asdict(settings):
        return done
    run = CACHE / f"seed-{seed}-{time.time_ns()}"
    torch.manual_seed(seed)
    model = build(settings)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    averages = averages_of(run, settings)
    curves: dict[str, dict[int, float]] = {"raw": {}}
    started = time.monotonic()
    for step, ids in enumerate(batches(trained_on, settings, seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        model(input_ids=ids, labels=ids).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averages.update(step, model, optimizer)
        if step % settings.evaluate_every == 0:
            measure(step, model, averages, held_out, curves)
            latest = {name: round(curve.get(step, math.nan), 4) for name, curve in curves.items()}
            print(f"seed {seed} step {step} {time.monotonic() - started:.0f} s {latest}")
        if step == settings.steps:
            break
    averages.finish()
    document = {"settings": asdict(settings), "seed": seed, "curves": curves}
    document["seconds"] = round(time.monotonic() - started)
    done.with_suffix(".part").write_text(json.dumps(document, indent=1))
    done.with_suffix(".part").rename(done)
    return done


def measure(
    step: int,
    model: nn.Module,
    averages: bequest.WeightAverages,
    held_out: Tensor,
    curves: dict[str, dict[int, float]],
) -> None:
    """Add the held-out loss of the model and of each average that exists by now."""
    curves["raw"][step] = loss_on(model, held_out)
    for name in averages.names:
        try:
            with averages.applied(model, name):
                curves.setdefault(name, {})[step] = loss_on(model, held_out)
        except bequest.BequestError:
            continue  # It begins later in the run.


def load(paths: list[Path]) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Steps and losses (seeds x steps) by curve."""
    documents = [json.loads(path.read_text()) for path in paths]
    steps = {name: [int(s) for s in curve] for name, curve in documents[0]["curves"].items()}
    losses = {
        name: np.array([list(document["curves"][name].values()) for document in documents])
        for name in steps
    }
    return steps, losses


def draw(steps: dict[str, list[int]], losses: dict[str, np.ndarray], settings: Settings) -> None:
    """The curves of all seeds, means with the range of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=110)
    for name, curve in losses.items():
        late = [i for i, step in enumerate(steps[name]) if step >= 150]
        x = [steps[name][i] for i in late]
        style = {"color": "black", "linewidth": 2.2} if name == "raw" else {"linewidth": 1.4}
        (line,) = axes.plot(x, curve.mean(0)[late], label=name, **style)
        axes.fill_between(
            x, curve.min(0)[late], curve.max(0)[late], color=line.get_color(), alpha=0.15
        )
    axes.axvline(settings.constant_until, color="grey", linestyle=":", linewidth=1)
    axes.text(settings.constant_until + 5, axes.get_ylim()[1], "decay begins", va="top", fontsize=8)
    axes.set_xlabel("step")
    axes.set_ylabel("held-out loss (nats/token)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FIGURE)


def table(
    steps: dict[str, list[int]], losses: dict[str, np.ndarray], settings: Settings
) -> list[str]:
    """Losses at three moments, and how each average differs from the raw model, seed by seed."""
    moments = sorted({200, settings.constant_until, settings.steps})
    lines = ["| | " + " | ".join(f"step {moment}" for moment in moments) + " |"]
    lines.append("|---" * (len(moments) + 1) + "|")
    raw = {step: losses["raw"][:, i] for i, step in enumerate(steps["raw"])}
    for name, curve in losses.items():
        cells = []
        for moment in moments:
            if moment not in steps[name]:
                cells.append("")
                continue
            values = curve[:, steps[name].index(moment)]
            cell = f"{values.mean():.3f}"
            if name != "raw":
                gap = values - raw[moment]
                cell += f" ({gap.mean():+.3f}, {gap.min():+.3f} to {gap.max():+.3f})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def write_results(lines: list[str], seeds: list[int], settings: Settings) -> None:
    """Replace this experiment's section of RESULTS.md."""
    section = [
        BEGIN,
        "## Averages along one run",
        "",
        f"`python -m experiments.averaging --seeds {' '.join(map(str, seeds))} "
        f"--steps {settings.steps}`: "
        f"{settings.num_hidden_layers} blocks of width {settings.hidden_size}, Brown corpus, "
        f"{settings.batch_size * settings.block_length} tokens a step, AdamW at a constant "
        f"{settings.learning_rate:g} until step {settings.constant_until}, then linearly to zero at "
        f"{settings.steps}. Held-out loss in nats/token, mean of {len(seeds)} seeds; in brackets the "
        "difference to the raw model of the same seed and step: mean, smallest to largest.",
        "",
        *lines,
        END,
    ]
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    RESULTS.write_text(
        before.rstrip() + "\n\n" + "\n".join(section) + "\n" + after.lstrip("\n"), encoding="utf-8"
    )


def main() -> None:
    """Run the seeds that are not done, then draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    options = parser.parse_args()
    settings = Settings(steps=options.steps, constant_until=options.steps * 4 // 5)
    CACHE.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(settings)
    trained_on = sequences(settings, "train", tokenizer)
    held_out = sequences(settings, "held_out", tokenizer)[: settings.held_out_sequences]
    print(f"{trained_on.numel():,} training tokens, {held_out.numel():,} held out")
    paths = [run_seed(seed, settings, trained_on, held_out) for seed in options.seeds]
    steps, losses = load(paths)
    draw(steps, losses, settings)
    lines = table(steps, losses, settings)
    write_results(lines, options.seeds, settings)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
