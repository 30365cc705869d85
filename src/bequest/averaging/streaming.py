"""The one pass that writes averages: every member's bytes are read once, whatever is made of them.

Tensors are cut into tiles small enough to stay in the caches. A thread reads a tile of every
member, lets the kernel average it for each result that wants it, and writes it to its place; so
memory is bounded by the number of members, not by the model. One average, all averages along a run
and all candidates of a search are the same pass with one or many results.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bequest.averaging.accumulate import Accumulator, Array, first_non_finite
from bequest.checkpoints import dtypes
from bequest.checkpoints.copying import write_all
from bequest.checkpoints.pieces import OpenFiles, StoredTensor, read_elements
from bequest.checkpoints.shards import Shard, TensorSpec, write_index
from bequest.errors import CheckpointError

_THREADS = 2
"""The kernel keeps two cores busy; from there on, disks and memory are the limit."""
_TILES_BYTES = 4 << 20
"""Bytes of all members' tiles in one thread."""
_TILE_ELEMENTS = 1 << 17
_LEAST_TILE_ELEMENTS = 1 << 12
_STRIP_ELEMENTS = 1 << 22
"""Elements that a thread takes on at once: few enough that threads end together."""


class NonFiniteError(CheckpointError):
    """A member holds NaN or Inf where the average needs it."""

    def __init__(self, source: StoredTensor) -> None:
        super().__init__(f"tensor {source.name!r} holds NaN or Inf")
        self.source = source
        """The member's tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragedTensor(TensorSpec):
    """One tensor of an average."""

    sources: tuple[StoredTensor, ...]
    """The members' tensors, oldest first."""
    vector: tuple[float, ...] | None
    """Their coefficients; None copies the newest's bytes."""


def write_averages(
    targets: Mapping[Path, tuple[Shard[AveragedTensor], ...]], progress: Callable[[int], object]
) -> None:
    """Write averages to their folders, and the index of those in several files.

    Args:
        targets: existing folders, and what goes into each. Results that share a member must hold
            the very same `StoredTensor` objects: that is what makes it be read once.
        progress: is told of bytes as they are written.

    Raises:
        NonFiniteError: a member holds NaN or Inf.
        CheckpointError: an average is too large for its dtype.
        OSError: reading or writing failed.
    """
    jobs = _lay_out(targets)
    strips = _Strips(jobs, progress)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="bequest-average") as pool:
        try:
            working = [pool.submit(_work, strips) for _ in range(_THREADS)]
            for future in wait(working, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            # After an error or an interrupt the others stop at their next strip.
            strips.stop()
    for folder, shards in targets.items():
        write_index(shards, folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    """Where one average of a tensor goes, and what it is made of."""

    tensor: AveragedTensor
    file: Path
    start: int
    terms: tuple[tuple[int, float], ...]
    """Slot of each member that counts, and its coefficient; a copy has one."""


@dataclass(kw_only=True, slots=True)
class _Job:
    """All that is made of one tensor's members."""

    num_elements: int
    slots: dict[int, int] = field(default_factory=dict)
    sources: list[StoredTensor] = field(default_factory=list)
    results: list[_Result] = field(default_factory=list)

    def slot(self, source: StoredTensor) -> int:
        """Return the number under which a member's tensor is read."""
        if id(source) not in self.slots:
            self.slots[id(source)] = len(self.sources)
            self.sources.append(source)
        return self.slots[id(source)]


def _lay_out(targets: Mapping[Path, tuple[Shard[AveragedTensor], ...]]) -> list[_Job]:
    """Make every file, with its header and in its full size, and share the work out by tensor."""
    jobs: dict[str, _Job] = {}
    for folder, shards in targets.items():
        for shard in shards:
            path, header = folder / shard.file_name, shard.header
            with path.open("xb") as file:
                file.write(header)
                file.truncate(len(header) + shard.num_bytes)
            start = len(header)
            for tensor in shard.tensors:
                job = jobs.setdefault(tensor.name, _Job(num_elements=tensor.num_elements))
                vector = tensor.vector
                if vector is None:
                    vector = (0.0,) * (len(tensor.sources) - 1) + (1.0,)
                terms = tuple(
                    (job.slot(source), float(c))
                    for source, c in zip(tensor.sources, vector, strict=True)
                    if c != 0
                )
                job.results.append(_Result(tensor=tensor, file=path, start=start, terms=terms))
                start += tensor.num_bytes
    return list(jobs.values())


class _Strips:
    """The work that is left, handed out to threads, and the progress they report."""

    def __init__(self, jobs: list[_Job], progress: Callable[[int], object]) -> None:
        self._lock = threading.Lock()
        self._progress = progress
        self._left = self._all(jobs)
        self._stopped = False
        self.most_sources = max((len(job.sources) for job in jobs), default=0)

    def __iter__(self) -> Iterator[tuple[_Job, range]]:
        while True:
            with self._lock:
                strip = None if self._stopped else next(self._left, None)
            if strip is None:
                return
            yield strip

    def report(self, num_bytes: int) -> None:
        """Tell of bytes that were written."""
        with self._lock:
            self._progress(num_bytes)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    @staticmethod
    def _all(jobs: list[_Job]) -> Iterator[tuple[_Job, range]]:
        for job in jobs:
            for first in range(0, job.num_elements, _STRIP_ELEMENTS):
                yield job, range(first, min(first + _STRIP_ELEMENTS, job.num_elements))


def _work(strips: _Strips) -> None:
    with OpenFiles() as inputs, OpenFiles(os.O_WRONLY) as outputs:
        worker = _Worker(strips.most_sources, inputs, outputs)
        try:
            for job, elements in strips:
                strips.report(worker.run(job, elements))
        except BaseException:
            strips.stop()
            raise


class _Worker:
    """One thread's buffers and open files."""

    def __init__(self, most_sources: int, inputs: OpenFiles, outputs: OpenFiles) -> None:
        self._accumulator = Accumulator()
        self._inputs, self._outputs = inputs, outputs
        self._buffer_bytes = min(8 * _TILE_ELEMENTS, _TILES_BYTES // max(1, most_sources))
        self._buffer_bytes = max(8 * _LEAST_TILE_ELEMENTS, self._buffer_bytes)
        self._buffers = [np.empty(self._buffer_bytes, np.uint8) for _ in range(most_sources)]
        self._out = np.empty(4 * self._buffer_bytes, np.uint8)

    def run(self, job: _Job, elements: range) -> int:
        """Make all results of some elements of a tensor, and return the bytes written."""
        widths = [dtypes.numpy_dtype(source.dtype).itemsize for source in job.sources]
        tile = self._buffer_bytes // max(widths)
        written = 0
        for first in range(elements.start, elements.stop, tile):
            count = min(tile, elements.stop - first)
            tiles = [
                self._read(slot, source, first, count) for slot, source in enumerate(job.sources)
            ]
            for result in job.results:
                made = self._make(result, job.sources, tiles)
                descriptor = self._outputs.descriptor(result.file)
                write_all(descriptor, made.data, result.start + first * made.itemsize)
                written += made.nbytes
        for result in job.results:
            self._send_to_disk(result, elements)
        return written

    def _send_to_disk(self, result: _Result, elements: range) -> None:
        """Let the kernel begin to write what is done, so that the flush at the end finds little."""
        if hasattr(os, "posix_fadvise") and elements:
            width = dtypes.numpy_dtype(result.tensor.dtype).itemsize
            start, count = result.start + elements.start * width, len(elements) * width
            # Linux answers this advice by writing dirty pages, without waiting for them.
            descriptor = self._outputs.descriptor(result.file)
            os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_DONTNEED)

    def _read(self, slot: int, source: StoredTensor, first: int, count: int) -> Array:
        dtype = dtypes.numpy_dtype(source.dtype)
        values = self._buffers[slot][: count * dtype.itemsize].view(dtype)
        read_elements(source, first, values, self._inputs)
        return values

    def _make(self, result: _Result, sources: list[StoredTensor], tiles: list[Array]) -> Array:
        members = [tiles[slot] for slot, _ in result.terms]
        if result.tensor.vector is None:
            return members[0]
        dtype = dtypes.numpy_dtype(result.tensor.dtype)
        out: NDArray[np.generic] = self._out[: len(members[0]) * dtype.itemsize].view(dtype)
        if not self._accumulator.average(members, [c for _, c in result.terms], out):
            bad = first_non_finite(members)
            if bad is not None:
                raise NonFiniteError(sources[result.terms[bad][0]])
            raise CheckpointError(
                f"the average of tensor {result.tensor.name!r} is too large for "
                f"{result.tensor.dtype}; give a wider --dtype."
            )
        return out
