"""Tensors of legacy `pytorch_model.bin` files, by byte range, without trusting their pickles.

Only `torch.load(weights_only=True)` opens them, so nothing in a file is executed. torch's zip format
stores each tensor as it lies in memory: loaded with `mmap=True`, no data is read, and the kernel's
table of mappings tells at which byte of the file each tensor lies. Whatever is no plain range of
bytes there (the format of torch before 1.6, views, compressed or byte-swapped files) is rewritten
as safetensors in a temporary folder first.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.checkpoints import dtypes
from bequest.checkpoints.header import TensorEntry, read_header
from bequest.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def read_bin(path: Path, spool: Path) -> list[TensorEntry]:
    """Find the tensors of a `.bin` state dict.

    Args:
        path: a file that `torch.save` wrote from a mapping of names to tensors.
        spool: a folder for rewritten tensors; nothing is written there unless it is needed.

    Raises:
        CheckpointError: the file is damaged, or holds anything but tensors by name.
    """
    path = path.resolve()
    if _is_plain_zip(path):
        tensors = _state_dict(path, mmap=True)
        mappings = _mappings_of(path)
        found = [_entry(name, tensor, path, mappings) for name, tensor in tensors.items()]
        entries = [entry for entry in found if entry is not None]
        if len(entries) == len(found):
            return sorted(entries, key=lambda entry: (entry.start, entry.name))
    return _rewritten(path, spool)


def _is_plain_zip(path: Path) -> bool:
    """Whether a file is a zip of records that are neither compressed nor in another byte order."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            orders = [r for r in records if r.filename.rpartition("/")[2] == "byteorder"]
            native = all(archive.read(r) == sys.byteorder.encode() for r in orders)
            return native and all(r.compress_type == zipfile.ZIP_STORED for r in records)
    except (zipfile.BadZipFile, OSError):
        return False


def _mappings_of(path: Path) -> list[tuple[int, int, int]]:
    """List where this process has a file in memory: first address, last + 1, offset in the file."""
    mappings = []
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5] == str(path):
                first, last = (int(address, 16) for address in fields[0].split("-"))
                mappings.append((first, last, int(fields[2], 16)))
    return mappings


def _entry(
    name: str, tensor: torch.Tensor, path: Path, mappings: list[tuple[int, int, int]]
) -> TensorEntry | None:
    if not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
        return None
    address = tensor.data_ptr()
    for first, last, offset in mappings:
        if first <= address and address + tensor.nbytes <= last:
            return TensorEntry(
                name=name,
                dtype=dtypes.OF_TORCH[str(tensor.dtype).removeprefix("torch.")],
                shape=tuple(tensor.shape),
                file=path,
                start=offset + address - first,
            )
    return None


def _state_dict(path: Path, *, mmap: bool) -> dict[str, torch.Tensor]:
    import torch

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, ValueError, EOFError, OSError, LookupError, TypeError) as error:
        raise _unloadable(path, error) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, AttributeError) as error:
        raise _unloadable(path, error) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not tensors by name.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; save the "
                "model's state dict alone."
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in dtypes.OF_TORCH or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f"{path}: tensor {name!r} ({dtype}, {value.layout}, on {value.device}) holds no "
                "plain numbers; save the model again with dense weights."
            )
    return dict(loaded)


def _unloadable(path: Path, error: Exception) -> CheckpointError:
    lines = str(error).splitlines()
    reason = lines[0] if lines else type(error).__name__
    return CheckpointError(f"{path} cannot be loaded with weights_only=True: {reason}")


def _rewritten(path: Path, spool: Path) -> list[TensorEntry]:
    from safetensors.torch import save_file

    # Tied tensors share memory in the file; each gets bytes of its own, as the format demands.
    loaded = {
        name: tensor.resolve_conj().resolve_neg().contiguous().clone()
        for name, tensor in _state_dict(path, mmap=False).items()
    }
    target = spool / f"{path.stem}.safetensors"
    save_file(loaded, str(target))
    return read_header(target)[0]
