"""FLOW against its rivals, cell by cell; a cell that is done is not run again.

    pip install reasoning-gym==0.1.25
    OMP_NUM_THREADS=1 python -m experiments.flow

runs what is missing and then writes the table and the figure; with `--report` only these.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys

from bequest.training.method import MethodConfig
from experiments.flow.run import CACHE, Cell, Method, Settings, run

STANDARD = MethodConfig(scheme="uniform")
METHODS = {
    "standard": Method(config=STANDARD, blend=0.5),
    "FLOW": Method(config=MethodConfig(scheme="flow"), blend=0.5),
    "FLOW of tokens": Method(config=MethodConfig(scheme="flow-token")),
    "L2": Method(config=MethodConfig(scheme="uniform", l2=3e6)),
    "only the easy task": Method(config=MethodConfig(), only="gsm_symbolic"),
    "LoRA": Method(config=STANDARD, lora=True),
    "FLOW + LoRA": Method(config=MethodConfig(scheme="flow"), lora=True),
}
RATE = 5e-4
"""At which all methods are compared."""
SWEEP = {"standard": (1e-4, 2e-4, 1e-3), "FLOW": (1e-4, 1e-3), "LoRA": (2e-3,)}
"""Other rates, with the first seed."""


def cells(seeds: int) -> list[Cell]:
    """All cells, those that say most first."""
    before = Cell(method="standard", rate=0.0, seed=0)
    compared = itertools.product(range(seeds), METHODS)
    first = [Cell(method=method, rate=RATE, seed=seed) for seed, method in compared]
    swept = [Cell(method=m, rate=rate, seed=0) for m, rates in SWEEP.items() for rate in rates]
    return [before, *first[: len(METHODS)], *swept[:3], *first[len(METHODS) :], *swept[3:]]


def main() -> None:
    """Run the cells that are not done, each in a process of its own, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--report", action="store_true", help="only make the table and the figure")
    parser.add_argument("--cell", nargs=3, metavar=("METHOD", "RATE", "SEED"), help="run one cell")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    if options.cell:
        method, rate, seed = options.cell
        run(Cell(method=method, rate=float(rate), seed=int(seed)), METHODS[method], Settings())
        return
    wanted = [cell for cell in cells(options.seeds) if cell.method in options.methods]
    missing = [cell for cell in wanted if not cell.path.exists()]
    for cell in [] if options.report else missing:
        print(cell, flush=True)
        asked = ["--cell", cell.method, str(cell.rate), str(cell.seed)]
        subprocess.run([sys.executable, "-m", "experiments.flow", *asked], check=True)
    from experiments.flow.report import report

    report(Settings())


if __name__ == "__main__":
    main()
