"""A checkpoint read by name: its configuration and every tensor's place, before any data."""

from __future__ import annotations

import json
import mmap
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bequest.checkpoints import dtypes
from bequest.checkpoints.header import TensorEntry, read_header
from bequest.checkpoints.locate import Location, locate, require_plain_name
from bequest.errors import CheckpointError

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What `torch.compile` and activation checkpointing put into keys, before or inside a name."""

Stored = TypeVar("Stored")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's files, opened by name; see `open_checkpoint`."""

    location: Location
    """Where the files are."""
    config: Mapping[str, Any]
    """The parsed `config.json`."""
    tensors: Mapping[str, TensorEntry]
    """Every tensor by its key, in the order of files and bytes."""
    weight_files: tuple[Path, ...]
    """The files that hold the weights, as they stand in the folder."""
    spool: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Temporary copies of what legacy files cannot give by byte range; gone with this object."""

    @property
    def folder(self) -> Path:
        """The folder with the files."""
        return self.location.folder

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.num_bytes for entry in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Elements of all floating-point and quantized tensors, as they are stored."""
        return sum(entry.num_elements for entry in self.tensors.values())

    def read(self, name: str) -> npt.NDArray[np.generic]:
        """Read one tensor, mapped from its file: bfloat16 as uint16, read-only, any shape.

        Raises:
            InputError: NumPy has no type for its dtype.
            CheckpointError: there is no tensor of that name.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.location.name} has no tensor {name!r}.")
        return map_tensor(self.tensors[name])


def map_tensor(entry: TensorEntry) -> npt.NDArray[np.generic]:
    """Map one tensor from its file without reading it: bfloat16 as uint16, read-only.

    Raises:
        InputError: NumPy has no type for its dtype.
    """
    dtype = dtypes.numpy_dtype(entry.dtype)
    if entry.num_bytes == 0:
        return np.empty(entry.shape, dtype)
    with entry.file.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    flat = np.frombuffer(view, dtype, entry.num_elements, entry.start)
    return flat.reshape(entry.shape)


def open_checkpoint(
    source: str | Path, *, revision: str | None = None, field: str = "source"
) -> Checkpoint:
    """Open a transformers checkpoint by reading its configuration and headers only.

    Args:
        source: a folder with `config.json` and safetensors (or legacy `.bin`) weights in one file
            or in shards with an index; or a hub id.
        revision: branch, tag or commit of a hub repository.
        field: what the caller calls `source`, for messages.

    Raises:
        InputError: there is no such folder or repository.
        CheckpointError: the folder holds no checkpoint, or a damaged or unsafe one.
    """
    location = locate(source, revision=revision, field=field)
    config = read_json(location.folder / "config.json")
    files = weight_files(location.folder)
    tensors, spool = weight_entries(files, name=location.name)
    return Checkpoint(
        location=location,
        config=MappingProxyType(config),
        tensors=MappingProxyType(without_wrappers(tensors)),
        weight_files=tuple(files),
        spool=spool,
    )


def without_wrappers(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Take out of the keys what `torch.compile`, activation checkpointing and DDP put into them.

    No module of transformers has these names. Keys that would then be equal are all left alone, and
    refused when transformers judges them.

    Args:
        tensors: a checkpoint's tensors by key.
    """
    plain = {}
    for key, tensor in tensors.items():
        name = f".{key}"
        for wrapper in _WRAPPERS:
            name = name.replace(f".{wrapper}", ".")
        plain[name.removeprefix(".")] = tensor
    while plain and all(key.startswith("module.") for key in plain):
        plain = {key.removeprefix("module."): tensor for key, tensor in plain.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: the file is missing, unreadable or holds no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no model: it has no file {path.name}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where an object belongs.")
    return value


def weight_entries(
    files: list[Path], *, name: str
) -> tuple[dict[str, TensorEntry], tempfile.TemporaryDirectory[str] | None]:
    """Find every tensor of some weight files, safetensors or legacy ones.

    Args:
        files: all of one kind.
        name: the checkpoint's name, for messages.

    Returns:
        The tensors by key, in the order of files and bytes, and the folder of those that had to be
        rewritten, if there are any: they are gone with it.

    Raises:
        CheckpointError: a file is damaged or unsafe, two hold the same key, or the index of shards
            places a key elsewhere.
    """
    spool: tempfile.TemporaryDirectory[str] | None = None
    if files[0].suffix != ".safetensors":
        spool = tempfile.TemporaryDirectory(prefix="bequest-")
    tensors: dict[str, TensorEntry] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for entry in _entries(file, spool):
            if entry.name in tensors:
                raise CheckpointError(
                    f"{name}: tensor {entry.name!r} stands in both "
                    f"{file_of[entry.name]} and {file.name}."
                )
            tensors[entry.name] = entry
            file_of[entry.name] = file.name
    _check_index(files, file_of)
    return tensors, spool


def _entries(file: Path, spool: tempfile.TemporaryDirectory[str] | None) -> list[TensorEntry]:
    if spool is None:
        return read_header(file)[0]
    from bequest.checkpoints.legacy import read_bin

    return read_bin(file, Path(spool.name))


def weight_files(folder: Path) -> list[Path]:
    """List the files with weights, in the order in which transformers looks for them.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (BIN, BIN_INDEX)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            names = sorted(set(_weight_map(folder / index).values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise CheckpointError(
                    f"{folder} lacks {missing[0]}, which {index} names"
                    f"{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}; "
                    "copy or download it again."
                )
            return [folder / name for name in names]
    raise CheckpointError(
        f"{folder} holds no weights: it has none of {SAFETENSORS}, {SAFETENSORS_INDEX}, {BIN} "
        f"and {BIN_INDEX}."
    )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} is damaged: it has no weight_map.")
    for name in weight_map.values():
        if not isinstance(name, str):
            raise CheckpointError(f"{index} is damaged: its weight_map must name files.")
        require_plain_name(name, index)
    return weight_map


def _check_index(files: list[Path], file_of: Mapping[str, str]) -> None:
    index = {".safetensors": SAFETENSORS_INDEX, ".bin": BIN_INDEX}.get(files[0].suffix, "")
    index_file = files[0].parent / index
    # A single file stands for itself, whatever index an earlier save left beside it.
    if files[0].name in (SAFETENSORS, BIN) or not index_file.is_file():
        return
    stated = _weight_map(index_file)
    for name in sorted(stated.keys() | file_of.keys()):
        if stated.get(name) != file_of.get(name):
            raise CheckpointError(
                f"{index_file} does not fit its files: it places tensor {name!r} in "
                f"{stated.get(name, 'no file')}, and it lies in {file_of.get(name, 'none')}."
            )
