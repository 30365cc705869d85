"""FLOW's linear theory, computed: `python -m experiments.linear_theory`.

Takes seconds; prints a table and draws docs/linear_theory.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.linear_theory.figures import SHOWN_RHO, draw
from experiments.linear_theory.tuned import Tuned, tune

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "linear_theory.png"
RHOS = (0.0, 0.1, 0.2, 0.3, 0.4, SHOWN_RHO, 0.6, 0.7, 0.8, 0.9, 0.95)
_IN_TABLE = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def table(tuned: list[Tuned]) -> list[str]:
    """The least total errors as a Markdown table."""
    lines = [
        "| rho | best average | plain | FLOW | its beta, K | FLOW, median | its beta, K |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {found.rho:g} | {found.average:.4f} | {found.vanilla:.4f} | {found.flow:.4f} | "
        f"{found.flow_beta:.3g}, {found.flow_steps} | {found.median:.4f} | "
        f"{found.median_beta:.3g}, {found.median_steps} |"
        for found in tuned
    ]
    return lines


def main() -> None:
    """Search all settings, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the PNG goes")
    options = parser.parse_args()
    tuned = [tune(rho) for rho in RHOS]
    print("\n".join(table([found for found in tuned if found.rho in _IN_TABLE])))
    draw(tuned, options.figure)


if __name__ == "__main__":
    main()
