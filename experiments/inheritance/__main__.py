"""Inherited against drawn, cell by cell; a cell that is done is not run again.

    python -m assets brown SmolLM2-135M-Instruct wikipedia-sample
    OMP_NUM_THREADS=1 python -m experiments.inheritance

runs what is missing and then writes the tables and the figure; with `--report` only these, and
with `--until HH:MM` it begins no cell after that time of day.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace

from experiments.inheritance.data import CACHE, CELLS
from experiments.inheritance.run import LONGER, Cell, Study, is_done, run

SMALL = {
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
STUDIES = {
    "small": Study(
        depth=8,
        shape=SMALL,
        vocab_size=4096,
        steps=400,
        batch_size=16,
        warmup=40,
        decay=80,
        spacing=8,
        evaluate_every=40,
        passage_bytes=500,
    ),
    "smollm2": Study(
        depth=30,
        steps=120,
        batch_size=2,
        warmup=10,
        decay=20,
        spacing=3,
        evaluate_every=20,
        passage_bytes=200,
    ),
}
RATES = (3e-4, 1e-3, 3e-3)
SMALL_RATE = 3e-3


def cells() -> list[Cell]:
    """All cells, those that say most first."""

    def pair(study: str, depth: int, rate: float, seed: int) -> list[Cell]:
        names = ("inherited", "scratch")
        return [Cell(study=study, start=s, depth=depth, rate=rate, seed=seed) for s in names]

    found = [Cell(study="smollm2", start="reference", depth=30, rate=0.0, seed=0)]
    found += pair("smollm2", 8, 1e-3, 0)
    found.append(Cell(study="small", start="reference", depth=8, rate=SMALL_RATE, seed=0))
    found += pair("small", 4, SMALL_RATE, 0) + pair("small", 4, SMALL_RATE, 1)
    found += pair("smollm2", 15, 1e-3, 0)
    longer = [
        Cell(study="small", start="scratch", depth=4, rate=SMALL_RATE, seed=seed, times=2)
        for seed in (0, 1)
    ]
    found += [longer[0], *pair("small", 4, SMALL_RATE, 2), *pair("smollm2", 15, 3e-4, 0)]
    for rate in (3e-4, 3e-3):
        found += pair("smollm2", 8, rate, 0)
    # A second seed of each at its own best rate, as the sweep above showed them.
    for depth in (8, 15):
        found += pair("smollm2", depth, 1e-3, 1)[:1] + pair("smollm2", depth, 3e-4, 1)[1:]
    long = Cell(study="small", start="reference", depth=8, rate=SMALL_RATE, seed=0, times=LONGER)
    found += [
        long,
        replace(long, start="inherited", depth=4, times=1, reference_times=LONGER),
        longer[1],
    ]
    return [*found, *pair("smollm2", 15, 3e-3, 0)]


def main() -> None:
    """Run the cells that are not done, each in a process of its own, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", help="only make tables and figure")
    parser.add_argument("--until", default="99:99", metavar="HH:MM", help="begin none after it")
    parser.add_argument("--cell", help="run the cell of this name")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    CELLS.mkdir(parents=True, exist_ok=True)
    if options.cell is not None:
        (cell,) = (cell for cell in cells() if cell.path.stem == options.cell)
        run(cell, STUDIES[cell.study])
        return
    for cell in [] if options.report else cells():
        if is_done(cell, STUDIES[cell.study]) or time.strftime("%H:%M") >= options.until:
            continue
        print(time.strftime("%H:%M:%S"), cell.path.stem, flush=True)
        command = [sys.executable, "-m", "experiments.inheritance", "--cell", cell.path.stem]
        subprocess.run(command, check=True)
    from experiments.inheritance.report import report

    report(STUDIES)


if __name__ == "__main__":
    main()
