"""Where a model came from: `bequest.json`, written into every output and carried along.

    {"schema_version": 1, "operation": "inherit", "created": "2026-11-23T14:00:00Z",
     "command": "bequest inherit ...", "versions": {"bequest": ..., ...},
     "settings": {...what was asked and decided, e.g. "source_blocks": [0, 1, ...]},
     "inputs": [{"role": "source", "name": ..., "repo_id", "revision", "structure_sha256",
                 "identity_sha256", "files": [{"name", "size", "header_sha256", "blob"?, "sha256"?}],
                 "lineage": {...the input's own bequest.json, if it had one}}],
     "outputs": [{"name", "size", "header_sha256"?, "sha256"?}]}

A header's hash names a file's tensors and layout, not their values; with `--hash` the SHA-256 of
whole files is there too. `structure_sha256` does not change when a checkpoint is sharded anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.lineage_form import require_form
from bequest.checkpoints.locate import Location
from bequest.checkpoints.pieces import OpenFiles, StoredTensor
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import CheckpointError, InputError

FILE_NAME = "bequest.json"
SCHEMA_VERSION = 1
_PACKAGES = ("bequest", "torch", "transformers", "safetensors", "numpy")
_BLOCK_BYTES = 4 << 20
_SMALL_BYTES = 16 << 20
"""Files up to this size that hold no weights are hashed whole without being asked."""
_SAMPLED_TENSORS = 256
_SAMPLED_BYTES = 4096


class Input(Protocol):
    """What an operation read: a checkpoint of any form."""

    @property
    def location(self) -> Location:
        """Where its files are."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its key."""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights."""


def describe_input(checkpoint: Input, role: str, *, full_hash: bool) -> dict[str, Any]:
    """Describe a checkpoint that an operation read.

    Args:
        checkpoint: the opened input.
        role: what it was to the operation, such as "source" or "teacher".
        full_hash: also read every byte of its weights for their SHA-256.
    """
    location = checkpoint.location
    described: dict[str, Any] = {"role": role, "name": location.name}
    if location.repo_id is not None:
        described |= {"repo_id": location.repo_id, "revision": location.revision}
    described["structure_sha256"] = structure_hash(checkpoint.tensors.values())
    described["identity_sha256"] = identity_hash(checkpoint.tensors)
    configs = [location.folder / name for name in ("config.json", "adapter_config.json")]
    files = [path for path in (*configs, *checkpoint.weight_files) if path.is_file()]
    described["files"] = [describe_file(file, full_hash=full_hash) for file in files]
    earlier = location.folder / FILE_NAME
    if earlier.is_file():
        described["lineage"] = read_json(earlier)
    return described


def describe_file(file: Path, *, full_hash: bool) -> dict[str, Any]:
    """Describe one file: name, size, the hash of its header, its hub blob, and its full hash.

    Raises:
        OSError: the file cannot be read.
    """
    described: dict[str, Any] = {"name": file.name, "size": file.stat().st_size}
    if file.suffix == ".safetensors":
        described["header_sha256"] = header_hash(file)
    # The hub cache keeps files under blobs/ by the hash the hub knows them by.
    if file.is_symlink() and file.resolve().parent.name == "blobs":
        described["blob"] = file.resolve().name
    if full_hash or is_small(file):
        described["sha256"] = file_hash(file)
    return described


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a whole file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def header_hash(file: Path) -> str:
    """Return the SHA-256 of a safetensors file's opening bytes: its length field and header."""
    with file.open("rb") as opened:
        length = opened.read(8)
        return hashlib.sha256(length + opened.read(int.from_bytes(length, "little"))).hexdigest()


def structure_hash(tensors: Iterable[StoredTensor]) -> str:
    """Return the SHA-256 of all tensors' names, dtypes and shapes, however they are sharded."""
    rows = sorted([t.name, t.dtype, list(t.shape)] for t in tensors)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def identity_hash(tensors: Mapping[str, StoredTensor]) -> str:
    """Return the SHA-256 of a sample of values: tells a model from others of the same structure.

    The beginnings of up to 256 tensors, evenly spaced among the sorted names; like the structure's,
    it does not change when a checkpoint is sharded anew.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    names = sorted(tensors)
    step = max(1, len(names) // _SAMPLED_TENSORS)
    with OpenFiles() as files:
        for name in names[::step]:
            digest.update(name.encode())
            for piece in tensors[name].pieces[:1]:
                count = min(_SAMPLED_BYTES, tensors[name].num_bytes)
                digest.update(os.pread(files.descriptor(piece.file), count, piece.start))
    return digest.hexdigest()


def write_lineage(
    folder: Path,
    *,
    operation: str,
    settings: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Iterable[Path],
    full_hash: bool,
) -> dict[str, Any]:
    """Write `bequest.json` into a finished output and return its contents.

    Args:
        folder: the output, complete but for this file.
        operation: name of what was done, such as "inherit".
        settings: what was asked and what was decided.
        inputs: from `describe_input`.
        outputs: the files of `folder` to be recorded.
        full_hash: record the SHA-256 of whole weight files.

    Raises:
        OSError: writing failed.
    """
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "operation": operation,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command_line(),
        "versions": package_versions(),
        "settings": dict(settings),
        "inputs": [dict(described) for described in inputs],
        "outputs": [
            # A file in a folder of its own, such as a chat template, by its path in the output.
            {
                **describe_file(file, full_hash=full_hash),
                "name": file.relative_to(folder).as_posix(),
            }
            for file in sorted(outputs)
        ],
    }
    (folder / FILE_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def record_again(folder: Path, file: Path) -> None:
    """Bring what the lineage says of one output up to date, after it was changed on purpose.

    Args:
        folder: an output; nothing is done if it has no lineage, or if that does not name the file.
        file: in the folder.

    Raises:
        OSError: writing failed.
        CheckpointError: the lineage is damaged or of a newer schema.
    """
    if not (folder / FILE_NAME).is_file():
        return
    record = read_lineage(folder)
    for position, output in enumerate(record["outputs"]):
        if output.get("name") == file.name:
            record["outputs"][position] = describe_file(file, full_hash="sha256" in output)
            with whole_file(folder / FILE_NAME) as written:
                written.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_lineage(folder: Path) -> dict[str, Any]:
    """Read the lineage of a folder that bequest wrote.

    Raises:
        InputError: there is no such folder, or no lineage in it.
        CheckpointError: the lineage is damaged or of a newer schema.
    """
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist; name a folder that bequest wrote.")
    if not (folder / FILE_NAME).is_file():
        raise InputError(f"folder {folder} has no {FILE_NAME}: bequest did not write it.")
    record = read_json(folder / FILE_NAME)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder / FILE_NAME} has schema_version {record.get('schema_version')!r}; "
            f"this bequest reads {SCHEMA_VERSION}."
        )
    require_form(record, folder / FILE_NAME)
    return record


def is_small(file: Path) -> bool:
    """Return whether a file holds no weights and is hashed whole without being asked."""
    return file.suffix != ".safetensors" and file.stat().st_size <= _SMALL_BYTES


def command_line() -> str:
    """Return the command line of this process as it could be typed again."""
    program, *arguments = sys.argv
    return shlex.join([Path(program).name, *arguments])


def package_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
