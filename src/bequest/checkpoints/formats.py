"""One checkpoint in any of the forms that training leaves: what an average reads of it.

===========  ========================================================================
model        a transformers folder: `config.json`, weights in one file or in shards
adapter      a PEFT folder: `adapter_config.json`, `adapter_model.safetensors` or `.bin`
state dict   a `.safetensors` file, a weights-only `.bin`, `.pt` or `.pth`, or a folder
             with weights in transformers' or accelerate's file names, or in one such
             file, and no config
dcp          a folder of `torch.distributed.checkpoint`, or one that holds
             `pytorch_model_fsdp_0`, as accelerate and Trainer write it
===========  ========================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from bequest.checkpoints.checkpoint import (
    open_checkpoint,
    read_json,
    weight_entries,
    weight_files,
    without_wrappers,
)
from bequest.checkpoints.dcp import METADATA, read_dcp
from bequest.checkpoints.locate import Location, locate
from bequest.checkpoints.pieces import StoredTensor
from bequest.errors import CheckpointError

Format = Literal["model", "adapter", "state dict", "dcp"]

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
STATE_DICT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_DCP_INNER = "pytorch_model_fsdp_0"
"""The folder that accelerate puts in a checkpoint."""
_FSDP_WHOLE = "pytorch_model_fsdp.bin"
"""The file that accelerate puts there if FSDP gathers the whole state dict."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One checkpoint's tensors by name, opened by headers only; see `open_weights`."""

    name: str
    """How it was named, for messages: a path, or a hub id and revision."""
    format: Format
    """Which of the forms in this module's table it has."""
    location: Location
    """The folder of its companions."""
    config_file: str | None
    """Name of the configuration in that folder; None for a state dict or DCP."""
    config: Mapping[str, Any]
    """The parsed configuration; empty without one."""
    tensors: Mapping[str, StoredTensor]
    """Every tensor by its key, in the order of files and bytes."""
    weight_files: tuple[Path, ...]
    """The files that hold the weights."""
    spool: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Temporary copies of what legacy files cannot give by byte range; gone with this object."""


def open_weights(source: str | Path, *, revision: str | None = None) -> Weights:
    """Open a checkpoint of any form by reading its configuration and headers only.

    Args:
        source: a folder or file, or a hub id of a transformers model or PEFT adapter.
        revision: branch, tag or commit of a hub repository.

    Raises:
        InputError: there is no such checkpoint.
        CheckpointError: it holds no weights, or damaged or unsafe ones.
    """
    path = Path(source).expanduser()
    if revision is None and path.is_file():
        return _open_state_dict(path.absolute(), [path.absolute()])
    location = locate(source, revision=revision, field="checkpoint")
    folder = location.folder
    name = location.name if revision is None else f"{location.name} at {revision}"
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / MODEL_CONFIG).is_file():
        return _open_adapter(name, location)
    if (folder / MODEL_CONFIG).is_file():
        checkpoint = open_checkpoint(source, revision=revision, field="checkpoint")
        return Weights(
            name=name,
            format="model",
            location=location,
            config_file=MODEL_CONFIG,
            config=checkpoint.config,
            tensors=checkpoint.tensors,
            weight_files=checkpoint.weight_files,
            spool=checkpoint.spool,
        )
    for inner in (folder, folder / _DCP_INNER):
        if (inner / METADATA).is_file():
            return _open_dcp(name, location, inner)
    return _open_state_dict(folder, _state_dict_files(folder))


def _open_adapter(name: str, location: Location) -> Weights:
    files = [location.folder / file for file in _ADAPTER_FILES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{name} holds no adapter: beside {ADAPTER_CONFIG} it has none of "
            f"{' and '.join(_ADAPTER_FILES)}."
        )
    entries, spool = weight_entries([file], name=name)
    return Weights(
        name=name,
        format="adapter",
        location=location,
        config_file=ADAPTER_CONFIG,
        config=MappingProxyType(read_json(location.folder / ADAPTER_CONFIG)),
        tensors=MappingProxyType(entries),
        weight_files=(file,),
        spool=spool,
    )


def _open_state_dict(path: Path, files: list[Path]) -> Weights:
    entries, spool = weight_entries(files, name=str(path))
    return Weights(
        name=str(path),
        format="state dict",
        location=Location(folder=path if path.is_dir() else path.parent),
        config_file=None,
        config=MappingProxyType({}),
        tensors=MappingProxyType(without_wrappers(entries)),
        weight_files=tuple(files),
        spool=spool,
    )


def _open_dcp(name: str, location: Location, folder: Path) -> Weights:
    tensors = {tensor.name: tensor for tensor in read_dcp(folder)}
    files = {piece.file: None for tensor in tensors.values() for piece in tensor.pieces}
    return Weights(
        name=name,
        format="dcp",
        location=location,
        config_file=None,
        config=MappingProxyType({}),
        tensors=MappingProxyType(without_wrappers(tensors)),
        weight_files=(folder / METADATA, *files),
    )


def _state_dict_files(folder: Path) -> list[Path]:
    if (folder / _FSDP_WHOLE).is_file():
        return [folder / _FSDP_WHOLE]
    try:
        return weight_files(folder)
    except CheckpointError:
        single = [
            path
            for path in sorted(folder.iterdir())
            if path.suffix in STATE_DICT_SUFFIXES and path.is_file()
        ]
        if len(single) != 1:
            raise
        return single
