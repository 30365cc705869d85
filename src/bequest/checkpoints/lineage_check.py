"""Whether a folder's files are still those that its lineage tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.lineage import file_hash, header_hash, is_small
from bequest.errors import InputError

_LOADED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
"""What transformers looks for: put beside the recorded files, it may be loaded in their place."""


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """What became of one recorded file."""

    name: str
    """File name within the output."""
    state: str
    """"intact", "missing", "added", or what differs."""

    @property
    def intact(self) -> bool:
        """Whether the file is as it was recorded."""
        return self.state == "intact"


def verify_outputs(folder: Path, record: Mapping[str, Any], *, full_hash: bool) -> list[FileCheck]:
    """Compare a folder's files with its lineage; one that loaders would read must be in it, too.

    Args:
        folder: an output of bequest.
        record: its lineage.
        full_hash: also compare the SHA-256 of whole weight files, where it was recorded.

    Raises:
        InputError: `full_hash` is asked for and not every file's hash was recorded.
    """
    outputs = record["outputs"]
    if full_hash and not all("sha256" in expected for expected in outputs):
        raise InputError(f"{folder} was written without --hash: only sizes and headers are known.")
    checks = [_check(folder / expected["name"], expected, full_hash) for expected in outputs]
    known = {expected["name"] for expected in outputs}
    added = [name for name in _LOADED if name not in known and (folder / name).exists()]
    return checks + [FileCheck(name=name, state="added") for name in added]


def _check(file: Path, expected: Mapping[str, Any], full_hash: bool) -> FileCheck:
    name = str(expected["name"])
    if not file.is_file():
        return FileCheck(name=name, state="missing")
    size = file.stat().st_size
    if size != expected["size"]:
        return FileCheck(name=name, state=f"{size} bytes instead of {expected['size']}")
    if "header_sha256" in expected and header_hash(file) != expected["header_sha256"]:
        return FileCheck(name=name, state="another header")
    if (
        "sha256" in expected
        and (full_hash or is_small(file))
        and file_hash(file) != expected["sha256"]
    ):
        return FileCheck(name=name, state="other contents")
    return FileCheck(name=name, state="intact")
