"""RESULTS.md: sections that benchmarks write, each between marks of its own, and machine facts."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import Measurement, Spread, digits

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"

_OPENING = """# What the benchmarks measured

Written by the scripts in this folder; `make bench` writes every section anew. Seconds and megabytes
are the median of several runs, with the smallest and the largest; a megabyte is 10^6 bytes.
"""


def write_section(name: str, title: str, body: str, path: Path = RESULTS) -> None:
    """Put a benchmark's section in its place; what others wrote stays as it is.

    Args:
        name: stays the same from run to run; letters, digits, `-`, `_` and `.`.
        title: the section's heading.
        body: Markdown.
        path: the file; made if it is not there.

    Raises:
        ValueError: `name` has other characters, or the file's marks are damaged.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name is {name!r}; use letters, digits, '-', '_' and '.'.")
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n## {title}\n\n{body.strip()}\n{end}\n"
    text = path.read_text(encoding="utf-8") if path.exists() else _OPENING
    places = text.count(begin), text.count(end)
    if places == (0, 0):
        text = f"{text.rstrip()}\n\n{section}"
    elif places == (1, 1) and text.index(begin) < text.index(end):
        before, rest = text.split(begin)
        text = before + section + rest.split(end)[1].removeprefix("\n")
    else:
        raise ValueError(f"{path} has damaged marks for {name!r}; remove that section.")
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def usage(measured: Mapping[str, Sequence[Measurement]]) -> str:
    """Return a Markdown table of what each way took, by its name."""
    rows = [
        [name, seconds(taken), cpu_seconds(taken), peak_megabytes(taken)]
        for name, taken in measured.items()
    ]
    return table(["way", "seconds", "CPU seconds", "MB"], rows)


def seconds(measured: Sequence[Measurement], *, flushed: bool = False) -> str:
    """Return the spread of wall seconds, with the time of flushing the output or without."""
    return str(Spread.of(m.wall_seconds + flushed * m.flush_seconds for m in measured))


def cpu_seconds(measured: Sequence[Measurement]) -> str:
    """Return the spread of user and system seconds."""
    return str(Spread.of(m.cpu_seconds for m in measured))


def peak_megabytes(measured: Sequence[Measurement]) -> str:
    """Return the spread of peak memory, or the bound below which it could not be measured."""
    floor = max(m.rss_floor_bytes for m in measured)
    spread = Spread.of(m.peak_rss_bytes / 1e6 for m in measured)
    return f"under {digits(floor / 1e6)}" if spread.high * 1e6 <= 1.02 * floor else str(spread)


def provenance(*, packages: Sequence[str], folder: Path) -> str:
    """Return when and how this was measured, and on what machine.

    Args:
        packages: distributions whose versions matter.
        folder: lies on the file system that was written to.
    """
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    load = os.getloadavg()[0]
    return (
        f"{date.today().isoformat()}, `python {shlex.join(sys.orig_argv[1:])}`, on "
        f"{os.cpu_count()} cores ({_processor()}), {_memory_bytes() / 1e9:.0f} GB of memory, "
        f"{_file_system(folder)}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{versions}. Load average at the end: {load:.1f}.\n"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _file_system(folder: Path) -> str:
    real = folder.resolve()
    best = ("", "unknown file system")
    for line in Path("/proc/mounts").read_text().splitlines():
        _device, place, kind, *_rest = line.split()
        # Later lines hide earlier ones at the same place.
        if real.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]
