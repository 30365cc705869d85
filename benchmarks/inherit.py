"""`bequest inherit` against `cp`, mergekit's passthrough, and loading, cutting and saving.

    python -m benchmarks.inherit [--repeats N] [--written GB] [--only real|synthetic] [--print]

Two sizes: the first 15 of SmolLM2-135M's 30 blocks in float32, and all blocks but one of a
synthetic bfloat16 llama checkpoint of which at least 8 GB are written. What is not written is then
so little that `cp` of the result's own files does the same reading and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import page
from benchmarks.frame import (
    SMOLLM2,
    comparison,
    mergekit_or_why_not,
    options,
    preparation,
    publish,
)
from benchmarks.harness import (
    BEQUEST,
    ROOT,
    SCRATCH,
    BenchmarkError,
    Contender,
    Measurement,
    digits,
    remove,
    run_in_turn,
    run_once,
)
from benchmarks.memory import MemoryPeaks, watch
from benchmarks.mergekit import VERSION, write_passthrough
from benchmarks.outputs import check_first_blocks, count_parameters, stored_tensors
from benchmarks.synthetic import synthetic_of, write_synthetic

WORKPLACE = SCRATCH / "inherit"
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}

_SHARD_BYTES = 5_000_000_000
_PACKAGES = ("torch", "transformers", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model to be cut."""

    name: str
    """Part of the section's name."""
    what: str
    """The model, for the heading."""
    source: Path
    """Its folder."""
    layers: int
    """How many of its first blocks are kept."""
    dtype: str
    """What it is stored in, as torch names it."""

    @property
    def out(self) -> Path:
        """The folder that contenders write."""
        return WORKPLACE / "out"

    @property
    def reference(self) -> Path:
        """The folder that `cp` copies: what `bequest inherit` wrote."""
        return WORKPLACE / "reference"

    def check(self) -> None:
        """Raise unless the output is the cut model, byte for byte."""
        check_first_blocks(self.source, self.out, self.layers)


def bequest_command(case: Case, out: Path) -> tuple[str, ...]:
    """Return the command that a user types, with this interpreter's `bequest`."""
    return (BEQUEST, "inherit", str(case.source), str(out), "--layers", str(case.layers))


def contenders(case: Case, mergekit: str | None) -> list[Contender]:
    """Return what is measured for one model."""
    made = [
        Contender(
            name="`bequest inherit`",
            command=bequest_command(case, case.out),
            environment=ENVIRONMENT,
            reads=(case.source,),
            writes=case.out,
            check=case.check,
        ),
        Contender(
            name="`cp -r` of the same files",
            command=("cp", "-r", str(case.reference), str(case.out)),
            reads=(case.reference,),
            writes=case.out,
            check=case.check,
        ),
        Contender(
            name="transformers: load, cut, save",
            command=(
                sys.executable,
                str(Path(__file__).with_name("cut_with_transformers.py")),
                str(case.source),
                str(case.out),
                str(case.layers),
            ),
            environment=ENVIRONMENT,
            reads=(case.source,),
            writes=case.out,
            check=case.check,
        ),
    ]
    if mergekit is not None:
        configuration = WORKPLACE / "passthrough.yaml"
        write_passthrough(case.source, case.layers, case.dtype, configuration)
        # mergekit counts a shard in parameters, not in bytes.
        element_bytes = 4 if case.dtype == "float32" else 2
        shard = f"--out-shard-size={_SHARD_BYTES // element_bytes}"
        made.append(
            Contender(
                name=f"mergekit {VERSION} passthrough",
                command=(mergekit, str(configuration), str(case.out), shard, "--quiet"),
                environment={"HF_HUB_OFFLINE": "1"},
                reads=(case.source,),
                writes=case.out,
                check=case.check,
            )
        )
    return made


def measure(case: Case, repeats: int, mergekit: str | BenchmarkError) -> tuple[str, MemoryPeaks]:
    """Run everything for one model; return its section and the memory that `bequest` took."""
    remove(case.reference)
    memory = watch(bequest_command(case, case.reference), ENVIRONMENT)
    found = mergekit if isinstance(mergekit, str) else None
    measured = run_in_turn(contenders(case, found), repeats=repeats)
    return _section(case, measured, mergekit, _phases(case)), memory


def _phases(case: Case) -> dict[str, float]:
    result = WORKPLACE / "phases.json"
    command = bequest_command(case, case.out)
    run_once(
        Contender(
            name="phases",
            command=(sys.executable, "-m", "benchmarks.inherit_phases", str(result), *command[2:]),
            environment=ENVIRONMENT | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            reads=(case.source,),
            writes=case.out,
            check=case.check,
        )
    )
    phases: dict[str, float] = json.loads(result.read_text())
    return phases


def _section(
    case: Case,
    measured: dict[str, list[Measurement]],
    mergekit: str | BenchmarkError,
    phases: dict[str, float],
) -> str:
    kept = sum(tensor.num_bytes for tensor in stored_tensors(case.reference).values())
    repeats = len(next(iter(measured.values())))
    return "\n".join(
        [
            page.provenance(packages=_PACKAGES, folder=WORKPLACE),
            f"Kept: the first {case.layers} blocks, {count_parameters(case.reference):,} parameters, "
            f"{kept / 1e9:.2f} GB. {repeats} runs of each, in turn, after one that is not counted. "
            "Each output was checked: its depth, its keys, and every byte against the source. "
            f"{preparation(measured, 'bequest inherit')}\n",
            comparison(measured, {f"mergekit {VERSION} passthrough": mergekit}),
            _phase_table(phases),
        ]
    )


def _phase_table(phases: dict[str, float]) -> str:
    rest = phases["build"] - max(phases["copy"], phases["verify"])
    rest -= phases["small files"] + phases["flush"]
    rows: list[tuple[str, float]] = [
        ("start: imports, command line", phases["start"]),
        ("plan", phases["plan"]),
        ("copy, two files at a time, each flushed", phases["copy"]),
        (
            "verify, beside the copy: modeling code imported, two models on meta",
            phases["verify"],
        ),
        ("small files, lineage", phases["small files"]),
        ("flush of everything, rename", phases["flush"] + rest),
        ("whole", phases["whole"]),
    ]
    shown = [[name, digits(value)] for name, value in rows]
    return "Where one run of `bequest inherit` spent its time:\n\n" + page.table(
        ["", "seconds"], shown
    )


def _memory_section(memory: dict[str, MemoryPeaks]) -> str:
    rows = [
        [
            what,
            digits(peaks.anonymous_bytes / 1e6),
            digits(peaks.file_bytes / 1e6),
            digits(peaks.resident_bytes / 1e6),
            str(peaks.samples),
        ]
        for what, peaks in memory.items()
    ]
    return "\n".join(
        [
            page.provenance(packages=_PACKAGES, folder=WORKPLACE),
            "Of one run each, read from `/proc/PID/status` every 5 ms while it ran. File pages are "
            "those of libraries, torch's above all; no weight is ever mapped.\n",
            page.table(
                ["", "anonymous, MB", "file pages, MB", "both at once, MB", "samples"], rows
            ),
        ]
    )


def main() -> int:
    """Measure what is asked for and write or print the sections."""
    parser = options("benchmarks.inherit", ["real", "synthetic"])
    parser.add_argument("--written", type=float, default=8.0, help="GB of the synthetic result")
    asked = parser.parse_args()
    return publish("benchmarks.inherit", asked, WORKPLACE, _sections(asked))


def _sections(asked: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    mergekit = mergekit_or_why_not(asked)
    memory: dict[str, MemoryPeaks] = {}
    for case in _cases(asked):
        body, memory[case.what] = measure(case, asked.repeats, mergekit)
        yield f"inherit-{case.name}", f"Cutting a model: {case.what}", body
    if len(memory) > 1:
        yield "inherit-memory", "Memory of `bequest inherit`", _memory_section(memory)


def _cases(asked: argparse.Namespace) -> Iterator[Case]:
    if asked.only != "synthetic":
        yield Case(
            name="real",
            what="SmolLM2-135M, float32, 15 of 30 blocks",
            source=SMOLLM2,
            layers=15,
            dtype="float32",
        )
    if asked.only != "real":
        shape = synthetic_of(asked.written * 1e9)
        print(f"generating {shape.num_bytes / 1e9:.2f} GB", flush=True)
        write_synthetic(shape, WORKPLACE / "source", SMOLLM2)
        layers = shape.num_hidden_layers - 1
        yield Case(
            name="synthetic",
            what=f"synthetic llama of {shape.num_bytes / 1e9:.1f} GB in {shape.num_shards} files, "
            f"bfloat16, {layers} of {shape.num_hidden_layers} blocks",
            source=WORKPLACE / "source",
            layers=layers,
            dtype="bfloat16",
        )


if __name__ == "__main__":
    sys.exit(main())
