"""The picture of docs/linear_theory.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.linear_theory.closed_forms import (
    best_average,
    flow_after,
    median_beta,
    total_error,
    vanilla_after,
)
from experiments.linear_theory.tuned import Tuned

SHOWN_RHO = 0.5
"""The correlation of the first two panels."""
_STEPS = np.unique(np.round(np.geomspace(1, 300, 120)))


def draw(tuned: list[Tuned], path: Path) -> None:
    """Draw total errors along training, over beta and K, and tuned over rho.

    Args:
        tuned: searched settings for several rho, among them `SHOWN_RHO`.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), dpi=90)
    _along_training(axes[0])
    _over_settings(axes[1], next(found for found in tuned if found.rho == SHOWN_RHO))
    _over_rho(axes[2], tuned)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _along_training(axes: Any) -> None:
    for beta, name in (
        (0.02, "FLOW, beta 0.02"),
        (0.1, "FLOW, beta 0.1"),
        (median_beta(SHOWN_RHO), f"FLOW, median ({median_beta(SHOWN_RHO):.2f})"),
        (0.9, "FLOW, beta 0.9"),
    ):
        errors = total_error(flow_after(_STEPS, beta, SHOWN_RHO), SHOWN_RHO)
        axes.plot(_STEPS, errors, label=name)
    errors = total_error(vanilla_after(_STEPS, 0.05, SHOWN_RHO), SHOWN_RHO)
    axes.plot(_STEPS, errors, "k--", label="plain, rate 0.05")
    axes.axhline(best_average()[1], color="grey", ls=":", label="best average")
    axes.set(xscale="log", xlabel="steps K", ylabel="total error / ||e||²", ylim=(0.44, 1.42))
    axes.set_title(f"along training (rho {SHOWN_RHO})", fontsize=10)
    axes.legend(frameon=False, fontsize=7, ncols=2)


def _over_settings(axes: Any, found: Tuned) -> None:
    betas = np.geomspace(0.005, 0.99, 160)
    values = np.array(
        [total_error(flow_after(_STEPS, float(b), SHOWN_RHO), SHOWN_RHO) for b in betas]
    )
    mesh = axes.pcolormesh(_STEPS, betas, values, shading="nearest", vmax=1.0)
    axes.contour(_STEPS, betas, values, levels=[0.5], colors="white", linewidths=0.8)
    axes.plot(found.median_steps, found.median_beta, "o", color="red", label="median temperature")
    axes.plot(found.flow_steps, found.flow_beta, "*", color="orange", ms=11, label="least")
    axes.set(xscale="log", yscale="log", xlabel="steps K", ylabel="beta")
    axes.set_title(f"FLOW's total error (rho {SHOWN_RHO})", fontsize=10)
    axes.legend(fontsize=7, loc="lower left")
    axes.figure.colorbar(mesh, ax=axes)


def _over_rho(axes: Any, tuned: list[Tuned]) -> None:
    rhos = [found.rho for found in tuned]
    for name, style in (("average", "k:"), ("vanilla", "k--"), ("flow", "C0-"), ("median", "C3-")):
        label = {
            "average": "best average",
            "vanilla": "plain, rate and K tuned",
            "flow": "FLOW, beta and K tuned",
            "median": "FLOW, median, K tuned",
        }[name]
        axes.plot(rhos, [getattr(found, name) for found in tuned], style, label=label)
    axes.set(xlabel="rho", ylabel="least total error / ||e||²")
    axes.set_title("tuned", fontsize=10)
    axes.legend(frameon=False, fontsize=7)
