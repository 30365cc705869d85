"""Attention ranks and masses of SmolLM2-135M: `bequest diagnose` against whole matrices in turn.

`python -m benchmarks.diagnose` needs `make assets`. The peer keeps every attention matrix of a
sequence and takes the singular values of each head, `bequest diagnose` does neither; both find the
same ranks and masses. With the loss without each block, which the peer does not measure, bequest
runs once more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    BEQUEST,
    ROOT,
    SCRATCH,
    BenchmarkError,
    Contender,
    Measurement,
    run_in_turn,
)
from benchmarks.page import provenance, usage, write_section

ASSETS = ROOT / ".cache" / "assets"
MODEL = ASSETS / "SmolLM2-135M-Instruct"
TEXTS = ASSETS / "brown" / "held_out.jsonl"
OURS, WHOLE = "`bequest diagnose`", "all matrices of a sequence, one SVD a head"
LEAVING = "`bequest diagnose --leave-one-out`, 20 sequences"


def contenders(folder: Path, options: argparse.Namespace) -> list[Contender]:
    """Return the three commands; what an earlier benchmark left of other amounts is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours, leaving, whole = folder / "ours", folder / "leaving", folder / "whole.json"
    amounts = [str(options.sequences), str(options.length)]
    command = [BEQUEST, "diagnose", str(MODEL), "--texts", str(TEXTS), "--quiet"]
    command += ["--sequences", amounts[0], "--length", amounts[1], "--out"]
    script = str(Path(__file__).with_name("diagnose_with_torch.py"))
    peer = [sys.executable, script, str(MODEL), str(TEXTS), str(whole), *amounts]

    def check() -> None:
        if whole.exists() and (ours / "results.json").exists():
            expected = json.loads(whole.read_text(encoding="utf-8"))
            for name, found in means_of_ours(ours).items():
                apart = float(np.abs(found - np.array(expected[name])).mean())
                if apart > options.tolerance:
                    raise BenchmarkError(f"mean {name}: {apart:.3f} apart on the average")

    common = {"environment": {"HF_HUB_OFFLINE": "1"}, "reads": (MODEL,), "check": check}
    return [
        Contender(name=OURS, command=(*command, str(ours)), writes=ours, **common),  # type: ignore[arg-type]
        Contender(name=WHOLE, command=tuple(peer), writes=whole, **common),  # type: ignore[arg-type]
        Contender(
            name=LEAVING,
            command=(*command, str(leaving), "--leave-one-out"),
            writes=leaving,
            **common,  # type: ignore[arg-type]
        ),
    ]


def means_of_ours(out: Path) -> dict[str, np.ndarray]:
    """Mean rank and mean mass of each head over the sequences, each (L, H)."""
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    sections = {section["title"]: section["data"] for section in document["sections"]}
    return {
        name: np.array(sections[f"Attention {name}, mean over sequences"]["values"], np.float64)
        for name in ("rank", "mass")
    }


def report(measured: dict[str, list[Measurement]], options: argparse.Namespace) -> str:
    """Return what was measured as Markdown."""
    return (
        f"{MODEL.name}, {options.sequences} sequences of {options.length} tokens of the Brown "
        "corpus; the first two find the same ranks and masses.\n\n"
        f"{usage(measured)}\n"
        f"{provenance(packages=['torch', 'transformers'], folder=ROOT)}"
    )


def main() -> None:
    """Measure, print the table, and write it down if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=0.05, help="how far apart means may lie")
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    options = parser.parse_args()
    measured = run_in_turn(contenders(SCRATCH / "diagnose", options), repeats=options.repeats)
    body = report(measured, options)
    print(body)
    if not options.print:
        write_section("diagnose", "Diagnosing attention collapse", body)


if __name__ == "__main__":
    main()
