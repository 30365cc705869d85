"""The table and the figure of the image experiments, from the cells that are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
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


def measured(
    cells: Cells, seeds: dict[str, list[int]], method: str, less: str | None = None
) -> dict[str, Interval]:
    """A method's accuracies, averaged over targets, with bootstrap intervals over seeds and images.

    Seeds and images are drawn crossed: all seeds of a target are tested on the same images, and all
    cells are asked for the same images of what was known before, so one draw of images serves all.

    Args:
        cells: all that are done.
        seeds: of each target.
        method: one of `METHODS`.
        less: take this method's accuracies off, seed by seed and image by image.
    """
    generator = np.random.default_rng(0)
    exact: dict[str, list[float]] = {}
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    kept = len(next(iter(cells.values()))["retained"])
    kept_draws = [generator.integers(kept, size=kept) for _ in range(DRAWS)]
    for target, known in seeds.items():
        flags = _flags(cells, target, known, method)
        if less is not None:
            rival = _flags(cells, target, known, less)
            flags = {name: values - rival[name] for name, values in flags.items()}
        images = flags["target"].shape[1]
        draws = [generator.integers(images, size=images) for _ in range(DRAWS)]
        chosen = generator.integers(len(known), size=(DRAWS, len(known)))
        for name, values in flags.items():
            rows = kept_draws if name == "retained" else draws
            means = [np.nanmean(values[of][:, row]) for of, row in zip(chosen, rows, strict=True)]
            exact.setdefault(name, []).append(float(np.nanmean(values)))
            drawn.setdefault(name, []).append(np.array(means))
    all_drawn = {name: np.mean(value, axis=0) for name, value in drawn.items()}
    means = {name: float(np.mean(value)) for name, value in exact.items()}
    all_drawn["mean"] = (all_drawn["target"] + all_drawn["retained"]) / 2
    means["mean"] = (means["target"] + means["retained"]) / 2
    return {
        name: (means[name], *np.percentile(all_drawn[name], [2.5, 97.5]).tolist()) for name in means
    }


def _flags(
    cells: Cells, target: str, seeds: list[int], method: str
) -> dict[str, NDArray[np.float64]]:
    """Right (1) or wrong (0), (seeds, images); NaN in `hard` where an image is not among the hard."""
    right = np.array([cells[target, seed, method]["target"] for seed in seeds], float)
    hard = np.array([cells[target, seed, "probe"]["hard"] for seed in seeds], bool)
    retained = np.array([cells[target, seed, method]["retained"] for seed in seeds], float)
    return {"target": right, "retained": retained, "hard": np.where(hard, right, np.nan)}


COLUMNS = ("target", "retained", "mean", "hard")
RIVALS = (
    ("FLOW", vision.SMALLER_STEPS),
    ("FLOW + WiSE-FT", "WiSE-FT"),
    ("FLOW + WiSE-FT", vision.SMALLER_BLEND),
    ("FLOW + WiSE-FT", "probe"),
)
"""Pairs that tell what the weights do, and whether training the body paid."""


def pairs(cells: Cells, seeds: dict[str, list[int]]) -> list[str]:
    """The differences within `RIVALS` as a Markdown table, in per cent."""
    chosen = [(f"{method} less {less}", method, less) for method, less in RIVALS]
    return _lines(cells, seeds, "pair", chosen)


def table(cells: Cells, seeds: dict[str, list[int]], less: str | None = None) -> list[str]:
    """The methods as a Markdown table, in per cent; or each one's difference to another."""
    chosen = [(method, method, less) for method in vision.METHODS if method != less]
    return _lines(cells, seeds, "method", chosen)


def _lines(
    cells: Cells,
    seeds: dict[str, list[int]],
    head: str,
    chosen: Sequence[tuple[str, str, str | None]],
) -> list[str]:
    """A row for each label, method and what is taken off it."""
    lines = [
        f"| {head} | target | retained | mean of the two | target's hardest 10 % |",
        "|---|---|---|---|---|",
    ]
    for label, method, less in chosen:
        found = measured(cells, seeds, method, less)
        shown = [_shown(found[name], signed=less is not None) for name in COLUMNS]
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return lines


def by_target(cells: Cells, seeds: dict[str, list[int]]) -> list[str]:
    """Target / retained accuracy of each target and method, in per cent, and the probe's weights."""
    lines = ["| method | " + " | ".join(seeds) + " |", "|---" * (len(seeds) + 1) + "|"]
    for method in vision.METHODS:
        shown = []
        for target, known in seeds.items():
            flags = _flags(cells, target, known, method)
            shown.append(
                f"{100 * flags['target'].mean():.1f} / {100 * flags['retained'].mean():.1f}"
            )
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    for name, what in (
        ("temperature", "FLOW's temperature, nats"),
        ("mean_weight", "FLOW's mean weight"),
        ("effective_share", "effective share of the images"),
    ):
        probes = [
            [cells[target, seed, "probe"][name] for seed in known]
            for target, known in seeds.items()
        ]
        lines.append(f"| {what} | " + " | ".join(f"{np.mean(p):.2f}" for p in probes) + " |")
    return lines


def rates_tried(cache: Path, settings: Any) -> str:
    """Standard fine-tuning at other rates, on the first target's first seed."""
    found = {}
    for path in sorted(cache.glob("*.json")):
        cell = json.loads(path.read_text())
        rate = cell["settings"]["learning_rate"]
        if (
            cell["cell"] == [next(iter(vision.TARGETS)), 0, "standard"]
            and cell["settings"] == asdict(replace(settings, learning_rate=rate))
        ):  # fmt: skip
            found[rate] = [100 * float(np.mean(cell[part])) for part in ("target", "retained")]
    told = [
        f"{rate:g}: {target:.1f} / {kept:.1f}" for rate, (target, kept) in sorted(found.items())
    ]
    return "; ".join(told)


def _shown(found: Interval, *, signed: bool = False) -> str:
    mean, low, high = (100 * value for value in found)
    sign = "+" if signed else ""
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


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
        "Difference to standard fine-tuning with the same seed, image by image:",
        "",
        *table(cells, seeds, "standard"),
        "",
        "Other pairs, likewise:",
        "",
        *pairs(cells, seeds),
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
        "in brackets 95 % bootstrap intervals over seeds and images, crossed. The hardest tenth is "
        "the one with the largest losses under the probe, which says little of the probe itself. "
        f"`{vision.SMALLER_STEPS}` is the standard loss at the rate times FLOW's mean weight. "
        "The rate is the lowest tried at which standard fine-tuning learned the first digits better "
        "than the probe, chosen before the other methods ran (rate: target / retained): "
        f"{rates_tried(cache, settings)}.",
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
