"""Checkpoints of a run that never ran: a model's weights with noise, or random ones, and a check.

    python -m benchmarks.trajectory noisy SOURCE RUN COUNT
    python -m benchmarks.trajectory random GIGABYTES RUN COUNT
    python -m benchmarks.trajectory check exact|close OUT RUN

Processes of their own, because NumPy's memory would be counted for every command that the
benchmark's process starts.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.outputs import Stored, stored_tensors
from benchmarks.synthetic import Synthetic, synthetic_of

_CHUNK = 1 << 22
_DISTANCE = 1000
"""Steps between checkpoints."""
_CLOSE = 2.0**-6
"""What a sum in bfloat16 or float32 may be off by, of the largest value beside it."""


def write_noisy(source: Path, run: Path, count: int) -> None:
    """Write float32 checkpoints: the source's weights, each with noise of its own."""
    weights = np.fromfile(source / "model.safetensors", np.uint8)
    start = 8 + int.from_bytes(weights[:8].tobytes(), "little")
    values = weights[start:].view(np.float32)
    for number in range(1, count + 1):
        folder = run / f"checkpoint-{number * _DISTANCE}"
        folder.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, folder / name)
        noise = np.random.default_rng(number).standard_normal(len(values), dtype=np.float32)
        with (folder / "model.safetensors").open("wb") as file:
            file.write(weights[:start].tobytes())
            (values + np.float32(1e-3) * noise).tofile(file)


def write_random(num_bytes: float, run: Path, count: int) -> None:
    """Write bfloat16 checkpoints of random weights, each cut into another number of files."""
    shape = synthetic_of(num_bytes / count)
    for number in range(1, count + 1):
        folder = run / f"checkpoint-{number * _DISTANCE}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(shape.config))
        _write_shards(shape, folder, 2 + number, np.random.default_rng(number))


def check(out: Path, run: Path, *, exact: bool) -> None:
    """Raise unless `out` is the mean of the run's checkpoints, computed here in float64.

    Args:
        out: the folder that was written.
        run: the folder with the checkpoints.
        exact: in every bit; otherwise to what a narrower sum loses.
    """
    members = [stored_tensors(folder) for folder in sorted(run.iterdir(), key=_step)]
    written = stored_tensors(out)
    if written.keys() != members[0].keys():
        raise SystemExit(f"{out}: keys differ: {sorted(written.keys() ^ members[0].keys())[:3]}")
    for name, tensor in written.items():
        width = 4 if tensor.dtype == "F32" else 2
        for first in range(0, tensor.num_bytes // width, _CHUNK):
            total: NDArray[np.float64] = np.zeros(1)
            for member in members:
                total = total + _values(member[name], first) * (1 / len(members))
            found = _values(tensor, first)
            if exact and not np.array_equal(found, _rounded(total, tensor.dtype)):
                raise SystemExit(f"{out}: {name} is not the rounded float64 mean")
            if np.abs(found - total).max() > _CLOSE * np.abs(total).max():
                raise SystemExit(f"{out}: {name} is not the mean")


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _values(tensor: Stored, first: int) -> NDArray[np.float64]:
    width = 4 if tensor.dtype == "F32" else 2
    count = min(_CHUNK, tensor.num_bytes // width - first)
    dtype: Any = np.float32 if width == 4 else np.uint16
    with tensor.file.open("rb") as file:
        file.seek(tensor.start + first * width)
        raw = np.fromfile(file, dtype, count)
    if width == 4:
        return raw.astype(np.float64)
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _rounded(values: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """Round to nearest-even by the definition."""
    mantissa, exponent = np.frexp(values)
    bits = 24 if dtype == "F32" else 8
    rounded: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return rounded


def _write_shards(
    shape: Synthetic, folder: Path, num_shards: int, generator: np.random.Generator
) -> None:
    tensors = list(shape.tensors())
    weight_map = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        part = tensors[number::num_shards]
        header: dict[str, object] = {}
        end = 0
        for key, extents in part:
            start, end = end, end + 2 * int(np.prod(extents))
            header[key] = {"dtype": "BF16", "shape": extents, "data_offsets": [start, end]}
            weight_map[key] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for first in range(0, end // 2, _CHUNK):
                bits = generator.integers(0, 1 << 16, min(_CHUNK, end // 2 - first), np.uint16)
                # Any sign and mantissa, magnitudes from 2**-15 to 2: nothing infinite.
                (bits & np.uint16(0x87FF) | np.uint16(0x3800)).tofile(file)
    index = {"metadata": {"total_size": shape.num_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    kind, first, second, third = arguments
    if kind == "noisy":
        write_noisy(Path(first), Path(second), int(third))
    elif kind == "random":
        write_random(float(first) * 1e9, Path(second), int(third))
    else:
        check(Path(second), Path(third), exact=first == "exact")


if __name__ == "__main__":
    main(sys.argv[1:])
