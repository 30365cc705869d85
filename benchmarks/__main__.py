"""Run every benchmark with its defaults: `python -m benchmarks`. Meant for a quiet machine."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import ROOT

BENCHMARKS = (
    "startup",
    "inherit",
    "average",
    "linear_cross_entropy",
    "token_losses",
    "evaluate",
    "diagnose",
    "pretrain",
    "averaging_live",
)


def main() -> int:
    """Run the benchmarks one after the other, each in a process of its own; stop at a failure."""
    for name in BENCHMARKS:
        print(f"benchmarks.{name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
