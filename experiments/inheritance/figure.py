"""Held-out loss along the runs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.inheritance.data import ROOT
from experiments.inheritance.run import LONGER
from experiments.inheritance.runs import CURVES, Run, chosen, key

FIGURE = ROOT / "docs" / "inheritance.png"
STARTS = {
    "inherited": ("inherited", "tab:blue"),
    f"inherited of x{LONGER}": ("inherited, longer reference", "tab:green"),
    "scratch": ("drawn", "tab:orange"),
    "reference": ("reference, as it was trained", "grey"),
}
"""What each start is called, and its colour."""


def draw(runs: Sequence[Run], panels: Sequence[tuple[str, int, str]]) -> None:
    """Held-out loss along the runs, a panel a study and depth, at each start's best rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.8), dpi=90)
    for axis, (study, depth, title) in zip(np.atleast_1d(axes), panels, strict=True):
        for start, (told, colour) in STARTS.items():
            depths = {r.cell.depth for r in runs if key(r)[:2] == (study, start)}
            of = depth if depth in depths else max(depths, default=0)
            own = list(chosen(runs, study, start, of).values())
            if start == "reference" and own and not own[0].cell.rate:
                axis.axhline(own[0].curve("raw")[0], color=colour, label="whole model")
            if not own or not own[0].cell.rate:
                continue
            for name, style in zip(CURVES, ("-", ":"), strict=True):
                curves = np.array([run.curve(name) for run in own])
                x = np.array(own[0].steps)
                label = told if name == "raw" else None
                axis.plot(x, curves.mean(0), style, color=colour, label=label)
                axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.15)
        for run in runs:
            if key(run)[:2] == (study, f"reference x{LONGER}"):
                label = f"that reference, {LONGER} times as long"
                axis.axhline(run.curve("raw")[-1], color="tab:green", ls="--", lw=1, label=label)
        axis.plot([], [], ":", color="black", label="LAWA of each")
        axis.legend(frameon=False, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("held-out loss (nats/token)")
    figure.tight_layout()
    figure.savefig(FIGURE)
