"""The peak of memory inside this process, from a moment on."""

from __future__ import annotations

import re
from pathlib import Path


class PeakMemory:
    """The most memory that is held from now on, above what is held now."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
            self._before = _status("VmRSS")

    def bytes(self) -> int:
        """Return it; the gradients that stay are counted."""
        if self._cuda:
            import torch

            return int(torch.cuda.max_memory_allocated()) - self._before
        return _status("VmHWM") - self._before


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
