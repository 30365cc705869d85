"""Watch a running command's memory, told apart by what backs it.

The peak that wait4 reports counts pages of files that a process has mapped, such as torch's
libraries: they are the page cache's, and leave when memory is short. Only anonymous memory must be
there. `/proc/PID/status` tells the two apart, so it is read again and again while the command runs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError

_INTERVAL_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class MemoryPeaks:
    """The largest values seen, each at its own moment."""

    anonymous_bytes: int
    """Memory that no file backs: heap, stacks, arrays."""
    file_bytes: int
    """Resident pages of mapped files."""
    resident_bytes: int
    """Both at once, as the kernel itself kept the peak."""
    samples: int
    """How often was looked."""


def watch(command: tuple[str, ...], environment: Mapping[str, str]) -> MemoryPeaks:
    """Run a command that starts no processes of its own, and watch its memory.

    Raises:
        BenchmarkError: the command failed.
    """
    peaks = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    samples = 0
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            now = _memory_lines(status)
            # A process that has just ended has no memory lines.
            samples += bool(now)
            for name in peaks:
                peaks[name] = max(peaks[name], now.get(name, 0))
            time.sleep(_INTERVAL_SECONDS)
    if process.returncode:
        raise BenchmarkError(f"{command[0]} ended with {process.returncode}")
    return MemoryPeaks(
        anonymous_bytes=peaks["RssAnon"],
        file_bytes=peaks["RssFile"],
        resident_bytes=peaks["VmHWM"],
        samples=samples,
    )


def _memory_lines(status: Path) -> dict[str, int]:
    found = {}
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.removesuffix(" kB")) * 1024
    return found
