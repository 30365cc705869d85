"""Weights to be written: planned from headers alone, then streamed into safetensors files.

A plan says for every tensor of the result where its bytes come from; its shards, headers and sizes
follow, so that a plan can be printed, judged by transformers (`verify`) and refused before a byte
is written.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from bequest.checkpoints import dtypes
from bequest.checkpoints.checkpoint import SAFETENSORS, SAFETENSORS_INDEX
from bequest.checkpoints.copying import Progress
from bequest.checkpoints.header import TensorEntry, encode_header
from bequest.checkpoints.output_file import OutputFile, create_output, writes_past_cache
from bequest.errors import InputError

_CONVERTED_ELEMENTS = 1 << 20
_FILES_AT_A_TIME = 2
_MAKING = threading.Lock()
"""Values are made by one thread at a time: their makers share a model and a random generator."""
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

Values = Callable[[], npt.NDArray[np.generic] | Iterator[npt.NDArray[np.generic]]]
"""Makes the values of a tensor when they are written, whole or in rows; bfloat16 as uint16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One tensor of the result, wherever its values come from."""

    name: str
    """Key of the tensor in the result."""
    dtype: str
    """Safetensors dtype in the result."""
    shape: tuple[int, ...]
    """Extents, outermost first."""

    @property
    def num_bytes(self) -> int:
        """Bytes the tensor takes in the result."""
        return dtypes.num_bytes(self.dtype, self.shape)

    @property
    def num_elements(self) -> int:
        """Elements the tensor has."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTensor(TensorSpec):
    """One tensor of the result that is copied, converted or made as a whole."""

    source: TensorEntry | Values
    """A range of bytes to copy (or to convert, if its dtype differs), or a maker of values."""


Spec = TypeVar("Spec", bound=TensorSpec, covariant=True)
AnySpec = TypeVar("AnySpec", bound=TensorSpec)


@dataclass(frozen=True, kw_only=True)
class Shard(Generic[Spec]):
    """One file of the result."""

    file_name: str
    """Name within the result's folder."""
    tensors: tuple[Spec, ...]
    """What the file holds, in the order of its bytes."""

    @property
    def header(self) -> bytes:
        """The file's opening bytes."""
        return encode_header((t.name, t.dtype, t.shape) for t in self.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(tensor.num_bytes for tensor in self.tensors)


def parse_size(text: str | int) -> int:
    """Return the bytes that a size such as 5000000, "500MB" or "5GB" names (1 KB is 1000 bytes).

    Raises:
        InputError: `text` is no such size, or is not positive.
    """
    number, unit = str(text).strip().upper(), "B"
    for suffix in ("TB", "GB", "MB", "KB", "B"):
        if number.endswith(suffix):
            number, unit = number.removesuffix(suffix).strip(), suffix
            break
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(f'max_shard_size is {text!r}; give a size such as "500MB" or "5GB".')
    return size


def plan_shards(
    tensors: Iterable[AnySpec], max_shard_size: str | int, *, single: str = SAFETENSORS
) -> tuple[Shard[AnySpec], ...]:
    """Share tensors out over files of about one size, keeping their order.

    No file is larger than it may be, but for a tensor that alone is: it has a file of its own.

    Args:
        tensors: in the order of their sources' bytes, so that runs of them are copied at once.
        max_shard_size: bytes of tensors in a file, as a number or such as "5GB".
        single: name of the file if one is enough.
    """
    limit = parse_size(max_shard_size)
    groups: list[list[AnySpec]] = [[]]
    filled = 0
    # Wide elements first (the sort is stable), so that every tensor is aligned to its elements.
    ordered = sorted(tensors, key=lambda t: -dtypes.BITS[t.dtype])
    total = sum(tensor.num_bytes for tensor in ordered)
    even = total / math.ceil(max(total, 1) / limit)
    for tensor in ordered:
        if groups[-1] and (filled >= even or filled + tensor.num_bytes > limit):
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.num_bytes
    if len(groups) == 1:
        return (Shard(file_name=single, tensors=tuple(groups[0])),)
    return tuple(
        Shard(file_name=f"model-{number:05}-of-{len(groups):05}.safetensors", tensors=tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def write_index(shards: tuple[Shard[TensorSpec], ...], folder: Path) -> None:
    """Write the index of more than one shard; nothing for a single one."""
    if len(shards) == 1:
        return
    weight_map = {tensor.name: shard.file_name for shard in shards for tensor in shard.tensors}
    total = sum(shard.num_bytes for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_shards(
    shards: tuple[Shard[PlannedTensor], ...], folder: Path, progress: Progress
) -> None:
    """Stream the planned tensors into safetensors files, and their index.

    Memory is bounded by a constant, whatever the model's size. Two files are copied and flushed to
    the disk at a time: one copy is held up by the kernel's work on a single core, not by the disk.
    Large results go past the page cache (see `output_file`).

    Args:
        shards: from `plan_shards`.
        folder: where the files go; they must not exist.
        progress: is told of bytes as they are written, by one thread at a time; if it raises, the
            copy ends.

    Raises:
        OSError: reading or writing failed.
    """
    past_cache = writes_past_cache(sum(shard.num_bytes for shard in shards))
    stop, turn = threading.Event(), threading.Lock()

    def report(count: int) -> None:
        with turn:
            if stop.is_set():
                raise InterruptedError("another file failed")
            progress(count)

    with ThreadPoolExecutor(max_workers=_FILES_AT_A_TIME) as pool:
        files = [
            pool.submit(_write_shard, s, folder / s.file_name, report, past_cache=past_cache)
            for s in shards
        ]
        try:
            for file in as_completed(files):
                file.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_index(shards, folder)


def _write_shard(
    shard: Shard[PlannedTensor], path: Path, progress: Progress, *, past_cache: bool
) -> None:
    header = shard.header
    num_bytes = len(header) + shard.num_bytes
    with ExitStack() as stack:
        target = stack.enter_context(create_output(path, num_bytes, past_cache=past_cache))
        target.write(header)
        open_files: dict[Path, int] = {}
        for run in _runs(shard.tensors):
            count = sum(tensor.num_bytes for tensor in run)
            first = run[0].source
            if isinstance(first, TensorEntry):
                if first.file not in open_files:
                    file = stack.enter_context(first.file.open("rb", buffering=0))
                    open_files[first.file] = file.fileno()
                if first.dtype == run[0].dtype:
                    target.copy(open_files[first.file], first.start, count, progress)
                else:
                    _convert(open_files[first.file], first, run[0].dtype, target, progress)
            else:
                with _MAKING:
                    values = first()
                for rows in (values,) if isinstance(values, np.ndarray) else values:
                    target.write(np.ascontiguousarray(rows).tobytes())
                    progress(rows.nbytes)


def _runs(tensors: Iterable[PlannedTensor]) -> Iterator[list[PlannedTensor]]:
    """Group neighbours whose bytes also follow one another in one source file."""
    run: list[PlannedTensor] = []
    end: tuple[Path, int] | None = None
    for tensor in tensors:
        source = tensor.source
        copied = isinstance(source, TensorEntry) and source.dtype == tensor.dtype
        if run and not (
            copied and isinstance(source, TensorEntry) and end == (source.file, source.start)
        ):
            yield run
            run = []
        run.append(tensor)
        end = None
        if copied and isinstance(source, TensorEntry):
            end = (source.file, source.start + source.num_bytes)
    if run:
        yield run


def _convert(
    source: int, entry: TensorEntry, dtype: str, target: OutputFile, progress: Progress
) -> None:
    stored = dtypes.numpy_dtype(entry.dtype)
    for first in range(0, entry.num_elements, _CONVERTED_ELEMENTS):
        count = min(_CONVERTED_ELEMENTS, entry.num_elements - first)
        data = os.pread(source, count * stored.itemsize, entry.start + first * stored.itemsize)
        converted = dtypes.convert(np.frombuffer(data, stored), entry.dtype, dtype)
        target.write(converted.tobytes())
        progress(converted.nbytes)


def target_dtype(stored: str, wanted: str | None, name: str, kept: tuple[str, ...] = ()) -> str:
    """Return the dtype of a tensor in the result.

    Args:
        stored: safetensors dtype in the source.
        wanted: "float32", "bfloat16", ... for the floats of the result; None keeps them.
        name: key of the tensor.
        kept: parts of keys whose tensors the model computes with in the type they have.

    Raises:
        InputError: `wanted` is unknown, or the tensor is quantized and cannot be converted.
    """
    if wanted is None:
        return stored
    if wanted not in dtypes.CONVERTIBLE:
        raise InputError(f"dtype is {wanted!r}; choose one of {', '.join(dtypes.CONVERTIBLE)}.")
    if any(f".{part}." in f".{name}." for part in kept):
        return stored
    if dtypes.is_float(stored):
        return dtypes.CONVERTIBLE[wanted]
    if stored.startswith("F"):
        raise InputError(
            f"dtype is {wanted!r}, but tensor {name!r} is stored as {stored} with scales of its own; "
            "leave dtype out, or dequantize the model first."
        )
    return stored


def with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """Return a configuration that states `dtype`, under the name that it already uses for it."""
    if dtype is None:
        return config
    field = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    return {**config, field: dtype}
