"""`bequest average` against mergekit's linear merge, whole models in turn, and `cat` + `cp`.

    python -m benchmarks.average [--repeats N] [--set GB] [--only real|random] [--print]

Five checkpoints each: SmolLM2-135M in float32, and random bfloat16 ones, cut differently, that make
at least 10 GB together. The floor reads the five and writes one: `cat` of all, `cp` of the result.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
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
)
from benchmarks.memory import MemoryPeaks, watch
from benchmarks.mergekit import VERSION
from benchmarks.outputs import count_parameters

WORKPLACE = SCRATCH / "average"
MEMBERS = 5
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HF_HUB_OFFLINE": "1"}
_PACKAGES = ("torch", "transformers", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run to be averaged."""

    name: str
    """Part of the section's name."""
    what: str
    """The run, for the heading."""
    dtype: str
    """What it is stored in, as torch names it."""
    made_from: tuple[str, str]
    """How `benchmarks.trajectory` makes it: its kind and its first argument."""

    @property
    def run(self) -> Path:
        """The folder with the checkpoints."""
        return WORKPLACE / self.name

    @property
    def out(self) -> Path:
        """The folder that contenders write."""
        return WORKPLACE / "out"

    @property
    def reference(self) -> Path:
        """The folder that `cp` copies: what `bequest average` wrote."""
        return WORKPLACE / "reference"

    @property
    def folders(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.run.iterdir(), key=lambda folder: int(folder.name.split("-")[1]))

    def trajectory(self, *arguments: str) -> None:
        """Call `benchmarks.trajectory` in a process of its own.

        Raises:
            BenchmarkError: it failed: an output is not what it must be.
        """
        command = [sys.executable, "-m", "benchmarks.trajectory", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(done.stderr.strip().splitlines()[-1])

    def make(self) -> None:
        """Write the checkpoints."""
        self.trajectory(*self.made_from, str(self.run), str(MEMBERS))

    def check_exact(self) -> None:
        """Raise unless the output is the float64 mean, rounded once, in every bit."""
        self.trajectory("check", "exact", str(self.out), str(self.run))

    def check_close(self) -> None:
        """Raise unless the output is the mean, up to what narrower sums lose."""
        self.trajectory("check", "close", str(self.out), str(self.run))


def bequest_command(case: Case, out: Path) -> tuple[str, ...]:
    """Return the command that a user types, with this interpreter's `bequest`."""
    window = ("--window", str(MEMBERS), "--spacing", "1000")
    return (BEQUEST, "average", str(case.run), str(out), *window)


def contenders(case: Case, mergekit: str | None) -> list[Contender]:
    """Return what is measured for one run."""
    read = " ".join(shlex.quote(str(f)) for m in case.folders for f in m.glob("*.safetensors"))
    copy = shlex.join(["cp", "-r", str(case.reference), str(case.out)])
    reads = (*case.folders, case.reference)
    made = [
        Contender(
            name="`bequest average`",
            command=bequest_command(case, case.out),
            environment=ENVIRONMENT,
            reads=reads,
            writes=case.out,
            check=case.check_exact,
        ),
        Contender(
            name="`cat` of the five, `cp -r` of the result",
            command=("sh", "-c", f"cat {read} > /dev/null && {copy}"),
            reads=reads,
            writes=case.out,
            check=case.check_exact,
        ),
        Contender(
            name="whole models in turn, in torch",
            command=(
                sys.executable,
                str(Path(__file__).with_name("average_with_torch.py")),
                str(case.run),
                str(case.out),
            ),
            environment=ENVIRONMENT,
            reads=reads,
            writes=case.out,
            check=case.check_close,
        ),
    ]
    if mergekit is not None:
        configuration = WORKPLACE / f"{case.name}.yaml"
        write_linear(case, configuration)
        made.append(
            Contender(
                name=f"mergekit {VERSION} linear",
                command=(mergekit, str(configuration), str(case.out), "--lazy-unpickle", "--quiet"),
                environment={"HF_HUB_OFFLINE": "1"},
                reads=reads,
                writes=case.out,
                check=case.check_close,
            )
        )
    return made


def write_linear(case: Case, file: Path) -> None:
    """Write the configuration with which mergekit averages the run."""
    models = "".join(
        f"  - model: {folder}\n    parameters:\n      weight: 1.0\n" for folder in case.folders
    )
    file.write_text(f"merge_method: linear\ndtype: {case.dtype}\nmodels:\n{models}")


def measure(case: Case, repeats: int, mergekit: str | BenchmarkError) -> tuple[str, MemoryPeaks]:
    """Run everything for one run; return its section and the memory that `bequest` took."""
    remove(case.reference)
    memory = watch(bequest_command(case, case.reference), ENVIRONMENT)
    found = mergekit if isinstance(mergekit, str) else None
    measured = run_in_turn(contenders(case, found), repeats=repeats)
    return _section(case, measured, mergekit, memory), memory


def _section(
    case: Case,
    measured: dict[str, list[Measurement]],
    mergekit: str | BenchmarkError,
    memory: MemoryPeaks,
) -> str:
    size = sum(f.stat().st_size for m in case.folders for f in m.glob("*.safetensors"))
    return "\n".join(
        [
            page.provenance(packages=_PACKAGES, folder=WORKPLACE),
            f"{MEMBERS} checkpoints, {size / 1e9:.2f} GB together, of "
            f"{count_parameters(case.reference):,} parameters; "
            f"{len(next(iter(measured.values())))} runs of each, in turn, after one that is not "
            "counted. Every output was checked: that of `bequest average` in every bit against the "
            "float64 mean, the others to what their narrower sums lose. "
            f"{preparation(measured, 'bequest average')} Of its memory "
            f"{digits(memory.anonymous_bytes / 1e6)} MB were anonymous, read every 5 ms.\n",
            comparison(measured, {f"mergekit {VERSION} linear": mergekit}),
        ]
    )


def main() -> int:
    """Measure what is asked for and write or print the sections."""
    parser = options("benchmarks.average", ["real", "random"])
    parser.add_argument("--set", type=float, default=10.5, help="GB of the random checkpoints")
    asked = parser.parse_args()
    return publish("benchmarks.average", asked, WORKPLACE, _sections(asked))


def _sections(asked: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    mergekit = mergekit_or_why_not(asked)
    for case in _cases(asked):
        case.make()
        body, _ = measure(case, asked.repeats, mergekit)
        yield f"average-{case.name}", f"Averaging a run: {case.what}", body
        remove(WORKPLACE)
        WORKPLACE.mkdir(parents=True)


def _cases(asked: argparse.Namespace) -> list[Case]:
    real = Case(
        name="real",
        what=f"SmolLM2-135M, float32, {MEMBERS} checkpoints",
        dtype="float32",
        made_from=("noisy", str(SMOLLM2)),
    )
    random = Case(
        name="random",
        what=f"{MEMBERS} bfloat16 checkpoints cut differently, {asked.set:g} GB",
        dtype="bfloat16",
        made_from=("random", str(asked.set)),
    )
    return [case for case in (real, random) if asked.only in (None, case.name)]


if __name__ == "__main__":
    sys.exit(main())
