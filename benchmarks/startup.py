"""How long `bequest --help` and `import bequest` take, beside the least and the usual.

python -m benchmarks.startup [--repeats N] [--print]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import page
from benchmarks.harness import BEQUEST, ROOT, BenchmarkError, Contender, run_in_turn

_HELLO = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.parse_args(["world"])
print("hello")
"""
_PACKAGES = ("bequest", "jsonargparse", "transformers", "torch")


def contenders() -> list[Contender]:
    """Return what is measured; `bequest` is the command beside this interpreter."""
    python = sys.executable
    commands = {
        "`python -c pass`": (python, "-c", "pass"),
        "argparse, hello world": (python, "-c", _HELLO),
        "`bequest --help`": (BEQUEST, "--help"),
        "`bequest inherit --help`": (BEQUEST, "inherit", "--help"),
        "`import bequest`": (python, "-c", "import bequest"),
        "`import transformers`": (python, "-c", "import transformers"),
        "`from transformers import AutoModelForCausalLM`": (
            python,
            "-c",
            "from transformers import AutoModelForCausalLM",
        ),
    }
    environment = {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    return [
        Contender(name=name, command=command, environment=environment)
        for name, command in commands.items()
    ]


def main() -> int:
    """Measure, and write or print the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    asked = parser.parse_args()
    try:
        measured = run_in_turn(contenders(), repeats=asked.repeats)
    except BenchmarkError as error:
        print(f"benchmarks.startup: {error}", file=sys.stderr)
        return 1
    rows = [
        [name, page.seconds(runs), page.cpu_seconds(runs), page.peak_megabytes(runs)]
        for name, runs in measured.items()
    ]
    body = "\n".join(
        [
            page.provenance(packages=_PACKAGES, folder=ROOT),
            f"{asked.repeats} runs of each, in turn, after one that is not counted: files are in the "
            "page cache, compiled Python files in their place.\n",
            page.table(["", "seconds", "user + system", "peak memory, MB"], rows),
        ]
    )
    title = "Start-up"
    if asked.print:
        print(f"\n## {title}\n\n{body}")
    else:
        page.write_section("startup", title, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
