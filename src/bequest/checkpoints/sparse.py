"""Planned weights as sparse files: full size, header only, no data on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest.checkpoints.shards import Shard, TensorSpec, write_index


def write_sparse(
    shards: tuple[Shard[TensorSpec], ...], config: Mapping[str, Any], folder: Path
) -> None:
    """Write a model folder whose weights are holes, for `from_pretrained(device_map="meta")`.

    Args:
        shards: the planned files.
        config: contents of `config.json`.
        folder: an existing, empty folder.

    Raises:
        OSError: writing failed.
    """
    for shard in shards:
        header = shard.header
        with (folder / shard.file_name).open("xb") as file:
            file.write(header)
            file.truncate(len(header) + shard.num_bytes)
    write_index(shards, folder)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
