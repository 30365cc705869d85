"""mergekit in an environment of its own, so that its requirements meet nobody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ROOT, SCRATCH, BenchmarkError, remove

VERSION = "0.1.5"
_ENVIRONMENT = SCRATCH / "mergekit-venv"


def mergekit_command() -> str:
    """Return the path of `mergekit-yaml`, installed first if it is not there.

    Raises:
        BenchmarkError: it cannot be installed here; the message says why.
    """
    command = _ENVIRONMENT / "bin" / "mergekit-yaml"
    ready = _ENVIRONMENT / f"ready-{VERSION}"
    if not ready.exists():
        print(f"installing mergekit {VERSION} into {_ENVIRONMENT.relative_to(ROOT)}", flush=True)
        remove(_ENVIRONMENT)
        python = str(_ENVIRONMENT / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        held = ["-c", str(ROOT / "constraints.txt")]
        _call([sys.executable, "-m", "venv", str(_ENVIRONMENT)])
        # torch first and alone, so that nothing swaps its CPU build for one with CUDA.
        _call([*pip, *held, "torch"])
        _call([*pip, *held, f"mergekit=={VERSION}"])
        ready.touch()
    return str(command)


def write_passthrough(source: Path, layers: int, dtype: str, file: Path) -> None:
    """Write the configuration with which mergekit keeps a model's first blocks."""
    file.write_text(
        f"slices:\n- sources:\n  - model: {source}\n    layer_range: [0, {layers}]\n"
        f"merge_method: passthrough\ndtype: {dtype}\n"
    )


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BenchmarkError(f"mergekit {VERSION} could not be installed: {lines[-1]}")
