"""Is a `bequest.json` what bequest writes? It may come from anywhere, so nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bequest.errors import CheckpointError

_DEEPEST = 100
"""Inputs of inputs: more than any chain of operations."""


def require_form(record: Mapping[str, Any], file: Path) -> None:
    """Refuse a lineage whose parts are missing, of another kind, or name files elsewhere.

    Args:
        record: the parsed file.
        file: where it was read, for messages.

    Raises:
        CheckpointError: it is damaged.
    """
    _require_record(record, file, _DEEPEST)
    outputs = record.get("outputs")
    if not isinstance(outputs, list):
        raise _damaged(file, "it has no outputs")
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise _damaged(file, "one of its outputs has no name")
        name = output["name"]
        if not is_inside(name):
            raise _damaged(file, f"it names the output {name!r}, which is no file of its folder")
        if type(output.get("size")) is not int:
            raise _damaged(file, f"its output {name!r} has no size")


def is_inside(name: str) -> bool:
    """Whether a recorded name is one of a file in the folder or a folder within it."""
    parts = PurePosixPath(name).parts
    unsafe = not parts or ".." in parts or "\\" in name or "\0" in name
    return not unsafe and not PurePosixPath(name).is_absolute()


def _require_record(record: Mapping[str, Any], file: Path, deepest: int) -> None:
    if deepest < 0:
        raise _damaged(file, "its inputs have inputs without end")
    for key, kind in (("operation", str), ("settings", dict), ("inputs", list)):
        if not isinstance(record.get(key), kind):
            raise _damaged(file, f"it has no {key}")
    blocks = record["settings"].get("source_blocks") or []
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise _damaged(file, "its source_blocks are no block numbers")
    for item in record["inputs"]:
        if not isinstance(item, dict):
            raise _damaged(file, "one of its inputs is no object")
        for key in ("role", "name"):
            if not isinstance(item.get(key), str):
                raise _damaged(file, f"one of its inputs has no {key}")
        if "lineage" in item:
            if not isinstance(item["lineage"], dict):
                raise _damaged(file, f"the lineage of its input {item['name']!r} is no object")
            _require_record(item["lineage"], file, deepest - 1)


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged: {what}.")
