"""Run whole commands in turn, and measure seconds and memory of each.

Contenders run A B C A B C ... after one unmeasured run of each, so that whatever else the machine
does meets all of them alike. Each run starts from the same state: its output is gone, its input is
in the page cache, the other contenders' is not, and nothing that an earlier run wrote still waits to
be written.

This file uses the standard library only. That keeps this process small, which matters: Linux
reports for a child no less memory than its parent had when it started it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".cache" / "bench"
"""Where benchmarks put what they generate; git ignores it."""
BEQUEST = str(Path(sys.executable).with_name("bequest"))
"""The command that a user types, of this interpreter."""

_SHOWN_OUTPUT_BYTES = 2000
_READ_BYTES = 1 << 20


class BenchmarkError(Exception):
    """A command of a benchmark failed, or did not do what it is timed for."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A command that is measured."""

    name: str
    """What the table calls it."""
    command: tuple[str, ...]
    """The command and its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set for it, beside those of this process."""
    reads: tuple[Path, ...] = ()
    """Files and folders that are brought into the page cache before each run."""
    writes: Path | None = None
    """What it makes: removed before each run, flushed to the disk after it."""
    check: Callable[[], None] | None = None
    """Called after each run; raises `BenchmarkError` if the command did not do its work."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one run took."""

    wall_seconds: float
    """From the start of the process to its end: interpreter and imports count."""
    cpu_seconds: float
    """User and system time of the process and of the children that it waited for."""
    peak_rss_bytes: int
    """Largest resident memory of any one process of the tree; pages of mapped files count."""
    rss_floor_bytes: int
    """Memory of the process that measured: Linux cannot report less than this."""
    flush_seconds: float = 0.0
    """What `sync -f` of the output took afterwards: near 0 if the command flushed it itself."""
    resident: float = 1.0
    """Share of `reads` that was in the page cache when the command started."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The smallest, the middle and the largest of several values."""

    low: float
    """The smallest."""
    median: float
    """The middle one."""
    high: float
    """The largest."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize at least one value."""
        ordered = sorted(values)
        return cls(low=ordered[0], median=statistics.median(ordered), high=ordered[-1])

    def __str__(self) -> str:
        """Show "median (smallest .. largest)" with three significant digits."""
        return f"{digits(self.median)} ({digits(self.low)} .. {digits(self.high)})"


def digits(value: float) -> str:
    """Show a number with three significant digits, and no exponent: 0.0123, 1.23, 12.3, 1234."""
    if value == 0:
        return "0"
    decimals = 0
    while abs(value) < 100 / 10**decimals and decimals < 4:
        decimals += 1
    return f"{value:.{decimals}f}"


def run_in_turn(contenders: Sequence[Contender], *, repeats: int) -> dict[str, list[Measurement]]:
    """Run every contender once unmeasured, then all of them in turn `repeats` times.

    Args:
        contenders: with different names.
        repeats: measured runs of each.

    Returns:
        For each name its measurements, in the order of the runs.

    Raises:
        BenchmarkError: a command failed, or its check did.
    """
    measured: dict[str, list[Measurement]] = {contender.name: [] for contender in contenders}
    for turn in range(repeats + 1):
        for contender in contenders:
            taken = run_once(contender, cold=[path for other in contenders for path in other.reads])
            note = f"turn {turn} of {repeats}" if turn else "warm-up"
            print(f"  {note}: {contender.name}: {taken.wall_seconds:.2f} s", flush=True)
            if turn:
                measured[contender.name].append(taken)
    return measured


def run_once(contender: Contender, *, cold: Sequence[Path] = ()) -> Measurement:
    """Run one command from a clean state and measure it.

    Args:
        contender: what is run.
        cold: files and folders to be out of the page cache, unless the contender reads them.

    Raises:
        BenchmarkError: the command failed, or its check did.
    """
    if contender.writes is not None:
        remove(contender.writes)
    files = [file for path in contender.reads for file in _files(path)]
    os.sync()
    for file in {file for path in cold for file in _files(path)}.difference(files):
        _evict(file)
    for file in files:
        _read_through(file)
    resident = share_resident(files)
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    wall, usage = _run(contender)
    flush = 0.0
    if contender.writes is not None:
        started = time.perf_counter()
        subprocess.run(["sync", "-f", contender.writes], check=True)
        flush = time.perf_counter() - started
    if contender.check is not None:
        contender.check()
    return Measurement(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        rss_floor_bytes=floor,
        flush_seconds=flush,
        resident=resident,
    )


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def share_resident(files: Sequence[Path]) -> float:
    """Return the share of the files' pages that the page cache holds; 1 for no pages at all."""
    pages = held = 0
    for file in files:
        flags = _resident_pages(file)
        pages += len(flags)
        held += sum(flag & 1 for flag in flags)
    return held / pages if pages else 1.0


def _run(contender: Contender) -> tuple[float, resource.struct_rusage]:
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            contender.command,
            env={**os.environ, **contender.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - started
        # Popen must not wait again for a process that is gone.
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _SHOWN_OUTPUT_BYTES))
            said = output.read().decode(errors="replace")
            raise BenchmarkError(f"{contender.name} ended with {process.returncode}: {said}")
    return wall, usage


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _read_through(file: Path) -> None:
    buffer = bytearray(_READ_BYTES)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def _evict(file: Path) -> None:
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident_pages(file: Path) -> bytes:
    """Ask mincore(2) for one byte a page; its lowest bit says whether the page is in memory."""
    size = file.stat().st_size
    if size == 0:
        return b""
    count = -(-size // mmap.PAGESIZE)
    flags = (ctypes.c_ubyte * count)()
    with file.open("rb") as opened:
        # A private writable mapping, because only of a writable one does ctypes tell the address.
        mapped = mmap.mmap(
            opened.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        )
        try:
            first = ctypes.c_char.from_buffer(mapped)
            address, length = ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size)
            code = ctypes.CDLL(None, use_errno=True).mincore(address, length, flags)
            del first
        finally:
            mapped.close()
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    return bytes(flags)
