"""What benchmarks of whole commands share: their options, the place they write to, their table."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import page
from benchmarks.harness import ROOT, BenchmarkError, Measurement, remove
from benchmarks.mergekit import mergekit_command

SMOLLM2 = ROOT / ".cache" / "assets" / "SmolLM2-135M-Instruct"

_COLUMNS = ["", "seconds", "until on the disk", "user + system", "peak memory, MB"]


def options(prog: str, sizes: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that these benchmarks share.

    Args:
        prog: the module.
        sizes: names of the cases, of which `--only` picks one.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {prog}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=sizes)
    parser.add_argument("--no-mergekit", action="store_true", help="a quick look without it")
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    return parser


def mergekit_or_why_not(asked: argparse.Namespace) -> str | BenchmarkError:
    """Return mergekit's command, or why it takes no part."""
    try:
        if asked.no_mergekit:
            raise BenchmarkError("left out")
        return mergekit_command()
    except BenchmarkError as error:
        return error


def publish(
    prog: str,
    asked: argparse.Namespace,
    workplace: Path,
    sections: Iterable[tuple[str, str, str]],
) -> int:
    """Measure case by case, write or print each section, and leave no file behind.

    Args:
        prog: the module, for messages.
        asked: from `options`.
        workplace: folder for what is generated and written.
        sections: measured when they are asked for: the name, the title and the body of each.

    Returns:
        The exit code.
    """
    if not SMOLLM2.exists():
        print(f"{SMOLLM2} is not there; run `make assets`", file=sys.stderr)
        return 2
    # Many gigabytes must not stay behind when a time limit ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    remove(workplace)
    workplace.mkdir(parents=True)
    try:
        for name, title, body in sections:
            if asked.print:
                print(f"\n## {title}\n\n{body}")
            else:
                page.write_section(name, title, body)
    except (BenchmarkError, subprocess.CalledProcessError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    finally:
        remove(workplace)
    return 0


def comparison(
    measured: Mapping[str, Sequence[Measurement]], absent: Mapping[str, str | BenchmarkError]
) -> str:
    """Return the table of all contenders, and the sentence on how runs were prepared.

    Args:
        measured: the runs of each contender.
        absent: contenders by name; those with an error did not take part.
    """
    rows = [
        [
            name,
            page.seconds(runs),
            page.seconds(runs, flushed=True),
            page.cpu_seconds(runs),
            page.peak_megabytes(runs),
        ]
        for name, runs in measured.items()
    ]
    rows += [[n, str(why), "", "", ""] for n, why in absent.items() if not isinstance(why, str)]
    return page.table(_COLUMNS, rows)


def preparation(measured: Mapping[str, Sequence[Measurement]], command: str) -> str:
    """Return how every run was prepared, and what its columns count.

    Args:
        measured: the runs of each contender.
        command: which of them flushes what it writes.
    """
    warm = min(run.resident for runs in measured.values() for run in runs)
    return (
        "Interpreter start and imports count. Before each run its input was read into the page "
        f"cache (at least {100 * warm:.1f} % of it was there) and everything pending was written "
        f'out. "Until on the disk" adds `sync -f` after the command; `{command}` flushes what it '
        "wrote before it names it, so that its seconds contain that already."
    )
