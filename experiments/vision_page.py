"""The table and the figure of the image experiments, from the cells that are done."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import vision

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "weighting.md"
FIGURE = ROOT / "docs" / "vision.png"
BEGIN, END = "<!-- vision:begin -->", "<!-- vision:end -->"
DRAWS = 2000

Cells = dict[tuple[str, int, str], dict[str, Any]]
Interval = tuple[float, float, float]
"""A mean and the bounds of its 95 % interval."""


def read_cells(cache: Path, settings: Any) -> Cells:
    """Read the cells that are done with these settings, by target, seed and method."""
    found: Cells = {}
    for path in sorted(cache.glob("*.json")):
        cell = json.loads(path.read_text())
        if cell["settings"] == asdict(settings):
            target, seed, method = cell["cell"]
            found[target, seed, method] = cell
    return found


def complete_seeds(cells: Cells) -> dict[str, list[int]]:
    """For each target, the seeds of which every method is done, so that methods are compared."""
    found: dict[str, list[int]] = {}
    for target in vision.TARGETS:
        seeds = sorted({seed for known, seed, _ in cells if known == target})
        found[target] = [
            seed for seed in seeds if all((target, seed, name) in cells for name in vision.METHODS)
        ]
    return {target: seeds for target, seeds in found.items() if seeds}


def measured(cells: Cells, seeds: dict[str, list[int]], method: str) -> dict[str, Interval]:
    """A method's accuracies, averaged over targets, with bootstrap intervals over seeds and images.

    Args:
        cells: all that are done.
        seeds: of each target.
        method: one of `METHODS`.
    """
    generator = np.random.default_rng(0)
    draws: dict[str, list[NDArray[np.float64]]] = {"target": [], "retained": [], "hard": []}
    exact: dict[str, list[float]] = {"target": [], "retained": [], "hard": []}
    for target, known in seeds.items():
        own = [cells[target, seed, method] for seed in known]
        hard = [np.array(cells[target, seed, "probe"]["hard"], dtype=bool) for seed in known]
        values = {
            "target": [np.array(cell["target"], float) for cell in own],
            "retained": [np.array(cell["retained"], float) for cell in own],
            "hard": [np.array(c["target"], float)[mask] for c, mask in zip(own, hard, strict=True)],
        }
        for name, flags in values.items():
            exact[name].append(float(np.mean([flag.mean() for flag in flags])))
            draws[name].append(_drawn(np.array(flags), generator))
    drawn = {name: np.mean(value, axis=0) for name, value in draws.items()}
    means = {name: float(np.mean(value)) for name, value in exact.items()}
    drawn["mean"] = (drawn["target"] + drawn["retained"]) / 2
    means["mean"] = (means["target"] + means["retained"]) / 2
    return {
        name: (means[name], *np.percentile(drawn[name], [2.5, 97.5]).tolist()) for name in means
    }


def _drawn(flags: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap the mean of flags (seeds, images): seeds first, then the images of each."""
    seeds, images = flags.shape
    chosen = generator.integers(seeds, size=(DRAWS, seeds))
    # The mean of resampled 0/1 flags is binomial.
    rates = flags.mean(axis=1)[chosen]
    result: NDArray[np.float64] = (generator.binomial(images, rates) / images).mean(axis=1)
    return result


def table(cells: Cells, seeds: dict[str, list[int]]) -> list[str]:
    """The methods as a Markdown table, in per cent."""
    lines = [
        "| method | target | retained | mean of the two | target's hardest 10 % |",
        "|---|---|---|---|---|",
    ]
    for method in vision.METHODS:
        found = measured(cells, seeds, method)
        shown = [_shown(found[name]) for name in ("target", "retained", "mean", "hard")]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def by_target(cells: Cells, seeds: dict[str, list[int]]) -> list[str]:
    """Target / retained accuracy of each target and method, in per cent."""
    lines = ["| method | " + " | ".join(seeds) + " |", "|---" * (len(seeds) + 1) + "|"]
    for method in vision.METHODS:
        shown = []
        for target, known in seeds.items():
            found = measured(cells, {target: known}, method)
            shown.append(f"{100 * found['target'][0]:.1f} / {100 * found['retained'][0]:.1f}")
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def _shown(found: Interval) -> str:
    mean, low, high = (100 * value for value in found)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def write_page(cache: Path, settings: Any) -> None:
    """Draw the figure and replace the experiment's part of docs/weighting.md."""
    cells = read_cells(cache, settings)
    seeds = complete_seeds(cells)
    if not seeds:
        print(f"{len(cells)} cells are done, of no target and seed all methods: nothing to write")
        return
    lines = [
        *table(cells, seeds),
        "",
        "Target / retained, by target:",
        "",
        *by_target(cells, seeds),
    ]
    total = 3 * len(vision.TARGETS) * len(vision.METHODS)
    told = "; ".join(f"{target}: {len(known)} seeds" for target, known in seeds.items())
    draw(cells, seeds)
    section = [
        BEGIN,
        f"`python -m experiments.vision --seeds 0 1 2` ({told}; {len(cells)} of {total} cells "
        f"done): {settings.train_images} images a target at {settings.size} pixels, "
        f"{settings.epochs} epochs of SGD at {settings.learning_rate:g}. Accuracies in per cent, "
        "in brackets 95 % bootstrap intervals over seeds and images.",
        "",
        *lines,
        "",
        "![What each method learns and keeps](vision.png)",
        END,
    ]
    text = PAGE.read_text(encoding="utf-8")
    before, mark, rest = text.partition(BEGIN)
    if not mark:
        raise SystemExit(f"{PAGE.name} has no {BEGIN}")
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n".join(section) + after, encoding="utf-8")
    print("\n".join(lines))


def draw(cells: Cells, seeds: dict[str, list[int]]) -> None:
    """Each method as a point: what is learned against what is kept, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.6, 4.2), dpi=90)
    for method in vision.METHODS:
        found = measured(cells, seeds, method)
        (x, left, right), (y, low, high) = (
            tuple(100 * value for value in found[name]) for name in ("target", "retained")
        )
        axes.errorbar(
            x,
            y,
            xerr=[[x - left], [right - x]],
            yerr=[[y - low], [high - y]],
            fmt="o",
            capsize=2,
            label=method,
        )
    axes.set_xlabel("accuracy on the target (%)")
    axes.set_ylabel("accuracy retained on CIFAR-10 (%)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FIGURE)
    plt.close(figure)
