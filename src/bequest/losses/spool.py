"""Results written to disk as they are found, so that a pass over the data can be taken up again."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bequest.errors import InputError

Losses = NDArray[np.float32]

_RECORD = struct.Struct("<QQI")  # batch number, number of float32 values, their CRC-32
_SAMPLES = 16


class Spool:
    """One process's file of finished batches: a header line, then one record a batch.

    A record carries its length and checksum, so what a killed process left half-written is found,
    cut off and computed again.
    """

    def __init__(self, folder: Path, rank: int, header: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank}.losses"
        self._header = header
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Open the file behind its last whole record."""
        end = sum(size for size, *_ in _records(self._path)) if self._path.exists() else 0
        self._file = self._path.open("r+b" if end else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._file.write(_encoded(self._header))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; it stays until its owner removes the folder."""
        assert self._file is not None
        self._file.close()

    def append(self, batch: int, values: Losses) -> None:
        """Write down the losses of a batch, and hand them to the operating system."""
        assert self._file is not None
        payload = values.astype("<f4", copy=False).tobytes()
        self._file.write(_RECORD.pack(batch, len(values), zlib.crc32(payload)) + payload)
        self._file.flush()


def finished_batches(folder: Path, header: dict[str, str]) -> dict[int, Losses]:
    """Read the whole records that all processes of earlier runs left in a folder.

    Raises:
        InputError: If the folder holds results of another model, other data or another plan.
    """
    found: dict[int, Losses] = {}
    for path in sorted(folder.glob("rank-*.losses")):
        records = _records(path)
        first = next(records, None)
        if first is None:  # killed before its header was whole
            continue
        if first[1] != _encoded(header):
            raise InputError(
                f"spool {folder} holds losses of another model, other data or another "
                "tokens_per_batch; remove it or name another folder"
            )
        for _, payload, batch in records:
            found[batch] = np.frombuffer(payload, dtype="<f4")
    return found


def identity(model: nn.Module, plan: object, *data: Sequence[Sequence[int]]) -> str:
    """Return a checksum of the data, the plan and a sample of every tensor of the model.

    Sixteen elements of each parameter tell any two trained models apart, and cost nothing.
    """
    digest = hashlib.sha256(repr(plan).encode())
    for rows in data:
        for row in rows:
            digest.update(np.asarray(row, dtype=np.int64).tobytes() + b"|")
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        flat = local.detach().flatten()
        some = flat[:: max(1, flat.numel() // _SAMPLES)].double().cpu().numpy()
        digest.update(
            f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode() + some.tobytes()
        )
    return digest.hexdigest()


def _encoded(header: dict[str, str]) -> bytes:
    return json.dumps({"version": "1", **header}, sort_keys=True).encode() + b"\n"


def _records(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yield the size, content and batch number (-1 for the header) of what is whole in a file."""
    with path.open("rb") as file:
        header = file.readline()
        if not header.endswith(b"\n"):
            return
        yield len(header), header, -1
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            batch, count, checksum = _RECORD.unpack(head)
            payload = file.read(4 * count)
            if len(payload) != 4 * count or zlib.crc32(payload) != checksum:
                return
            yield _RECORD.size + len(payload), payload, batch
