"""The table and the figure of the cells that are done: gained on the target, forgotten elsewhere."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.page import write_section
from experiments.flow.data import ROOT, SHARES
from experiments.flow.run import CACHE, Settings

FIGURE = ROOT / "docs" / "weighting.png"
RESULTS = ROOT / "experiments" / "RESULTS.md"
PROBES = ("brown", "python docs", "facts", "facts in chat")
BITS = ("brown", "python docs")
"""Probes given in bits per byte; the others are in nats a token."""
EASY = "gsm_symbolic"
"""The half of the target that the model finds easy, shown by itself, too."""
DRAWS = 2000
ORDER = ("standard", "standard + WiSE-FT", "L2", "FLOW", "FLOW + WiSE-FT", "FLOW of tokens")
ORDER += ("only the easy task", "LoRA", "FLOW + LoRA")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The losses of one cell, item by item."""

    method: str
    rate: float
    seed: int
    groups: NDArray[np.str_]
    nats: NDArray[np.float64]
    sizes: NDArray[np.float64]
    """What nats are divided by: bytes times ln 2, or tokens."""
    moved: float | None
    """Norm of the change of the weights by their own; None where it was not measured."""

    @classmethod
    def read(cls, file: Path) -> Run:
        """Read a cell's file."""
        document: dict[str, Any] = json.loads(file.read_text())
        items = document["items"]
        return cls(
            method=document["method"],
            rate=document["rate"],
            seed=document["seed"],
            moved=document.get("moved"),
            groups=np.array([item["group"] for item in items]),
            nats=np.array([item["nats"] for item in items]),
            sizes=np.array(
                [
                    item["bytes"] * math.log(2) if item["group"] in BITS else item["tokens"]
                    for item in items
                ],
                dtype=float,
            ),
        )


Chosen = dict[str, NDArray[np.intp]]


def measures(run: Run, chosen: Chosen) -> dict[str, float]:
    """Loss by probe over chosen items; `target` is the mean of its tasks by their shares."""
    found = {
        group: float(run.nats[rows].sum() / run.sizes[rows].sum()) for group, rows in chosen.items()
    }
    whole = sum(SHARES.values())
    return {
        "target": sum(found[task] * share for task, share in SHARES.items()) / whole,
        EASY: found[EASY],
        **{probe: found[probe] for probe in PROBES},
    }


def all_items(run: Run) -> Chosen:
    """Every item, by group."""
    return {str(group): np.flatnonzero(run.groups == group) for group in np.unique(run.groups)}


def change(
    runs: list[Run], others: list[Run], generator: np.random.Generator
) -> dict[str, tuple[float, float, float]]:
    """Mean difference over seeds, with a 95 % bootstrap interval over seeds and items.

    Args:
        runs: One a seed.
        others: What each is compared with, in the same order; measured on the same items.
        generator: Draws seeds and items.
    """
    items = all_items(runs[0])

    def difference(pairs: NDArray[np.intp], chosen: Chosen) -> dict[str, float]:
        found = [(measures(runs[i], chosen), measures(others[i], chosen)) for i in pairs]
        return {key: float(np.mean([a[key] - b[key] for a, b in found])) for key in found[0][0]}

    every = np.arange(len(runs))
    drawn = [
        difference(
            generator.choice(every, len(every)),
            {group: generator.choice(rows, len(rows)) for group, rows in items.items()},
        )
        for _ in range(DRAWS)
    ]
    middle = difference(every, items)
    ends = {key: np.quantile([draw[key] for draw in drawn], [0.025, 0.975]) for key in middle}
    return {key: (middle[key], float(low), float(high)) for key, (low, high) in ends.items()}


def table(runs: list[Run], rate: float, *, against: str | None) -> list[str]:
    """One row a method: the change from the start, or from another method of the same seed."""
    start = next(run for run in runs if run.rate == 0)
    there = [run for run in runs if run.rate == rate]
    names = ["target", EASY, *PROBES]
    lines = ["| | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    if against is None:
        values = measures(start, all_items(start)).values()
        lines.append("| before training | | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    for method in ORDER:
        own = {run.seed: run for run in there if run.method == method}
        other = {run.seed: run for run in there if run.method == against}
        seeds = sorted(own.keys() & other.keys()) if against else sorted(own)
        if not seeds or method == against:
            continue
        rivals = [other[seed] if against else start for seed in seeds]
        found = change([own[seed] for seed in seeds], rivals, np.random.default_rng(0))
        cells = [f"{m:+.3f} ({low:+.3f} to {high:+.3f})" for m, low, high in found.values()]
        lines.append(f"| {method} | {len(seeds)} | " + " | ".join(cells) + " |")
    return lines


def sweep(runs: list[Run]) -> list[str]:
    """One row a method and rate, of the first seed: the change from the start."""
    start = next(run for run in runs if run.rate == 0)
    before = measures(start, all_items(start))
    lines = ["| | rate | moved | " + " | ".join(before) + " |", "|---" * (len(before) + 3) + "|"]
    for method in ORDER:
        own = [run for run in runs if run.method == method and run.seed == 0 and run.rate > 0]
        for run in sorted(own, key=lambda run: run.rate):
            after = measures(run, all_items(run))
            cells = " | ".join(f"{after[key] - before[key]:+.3f}" for key in before)
            moved = "" if run.moved is None else f"{run.moved:.2%}"
            lines.append(f"| {method} | {run.rate:g} | {moved} | {cells} |")
    return lines


def spread(settings: Settings) -> str:
    """What the sample losses of the first seed are like, and how much weights can matter."""
    from bequest.weighting.schemes import flow_weights
    from experiments.flow.run import scores

    losses = scores(0, settings).loss
    ends = ", ".join(f"{q:.2f}" for q in np.quantile(losses, [0, 0.1, 0.5, 0.9, 1]))
    weights = flow_weights(losses).astype(float)
    share = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    return (
        f"Sample losses of the target under the starting model, quantiles 0/10/50/90/100 %: {ends} "
        f"nats; effective share of FLOW's weights {share:.0%}."
    )


def draw(runs: list[Run]) -> None:
    """Learned against forgotten: a point a run, a line a method and seed through its rates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    start = next(run for run in runs if run.rate == 0)
    before = measures(start, all_items(start))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), dpi=100)
    panels = (("brown", "python docs"), ("facts in chat",))
    for axis, probes in zip(axes, panels, strict=True):
        for number, method in enumerate(ORDER):
            own = [run for run in runs if run.method == method and run.rate > 0]
            if not own:
                continue
            found = [measures(run, all_items(run)) for run in own]
            x = [before["target"] - after["target"] for after in found]
            y = [float(np.mean([after[p] - before[p] for p in probes])) for after in found]
            marker = "osD^vP<*X"[number]
            axis.scatter(x, y, label=method, marker=marker, s=36, alpha=0.8)
        axis.axhline(0, color="grey", linewidth=0.8)
        unit = "bits per byte" if probes[0] in BITS else "nats a token"
        axis.set_ylabel(f"forgotten: {' and '.join(probes)} ({unit})")
        axis.set_xlabel("learned: drop of the target's loss (nats a token)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE)


def report(settings: Settings) -> None:
    """Write the section of RESULTS.md and the figure from the cells that there are."""
    from experiments.flow.__main__ import RATE

    runs = [Run.read(file) for file in sorted(CACHE.glob("*_*_*.json"))]
    if not any(run.rate == 0 for run in runs):
        raise SystemExit("there is no measurement from before training; run it without --report")
    body = "\n".join(
        [
            f"`python -m experiments.flow`: SmolLM2-135M (float32, bf16 autocast), "
            f"{settings.steps} steps of {settings.batch_size} samples, one epoch, AdamW, cosine, "
            "no weight decay, no clipping. The target: half gsm_symbolic with worked solutions, "
            "and an eighth each of sentence_reordering, basic_arithmetic, caesar_cipher and "
            "spell_backward (reasoning-gym). " + spread(settings),
            "",
            "Target and facts in nats a token, Brown and Python's manual in bits per byte; less is "
            "better, + is forgotten (of the target: not learned). In brackets 95 % bootstrap "
            "intervals over seeds and items, the same items in all runs.",
            "",
            f"Change from before training, rate {RATE:g}:",
            "",
            *table(runs, RATE, against=None),
            "",
            f"Difference to standard fine-tuning with the same seed, rate {RATE:g}:",
            "",
            *table(runs, RATE, against="standard"),
            "",
            "All rates, first seed, change from before training; moved is the norm of the change of "
            "all weights by their own:",
            "",
            *sweep(runs),
        ]
    )
    write_section("flow", "FLOW and its rivals on SmolLM2-135M", body, RESULTS)
    draw(runs)
    print(body)
