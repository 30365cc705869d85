"""What a model is, as one hash: the same wherever its folder lies, another when its answers may be.

Results carry it, so that they are found again, and put into the card of no other model.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.companions import companion_files
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError

ORIGINAL = "pretrained.safetensors"
"""What `bequest finetune` leaves of an image classifier as it was before: its head, and BatchNorm's
weights and statistics."""
PROCESSOR = "preprocessor_config.json"
_SEGMENT_BYTES = 64 << 20
_BLOCK_BYTES = 4 << 20
_MOST_THREADS = 8
_SETTLED_SECONDS = 5.0
"""A file that changed a moment ago may change again without its times telling: it is read anew."""
_SILENT = ("LICENSE", "NOTICE", "USE_POLICY")
"""Companions that change nothing of what a model says."""


class ContentHashes:
    """Hashes of whole files, remembered by what tells that a file is still the same.

    A sample of the weights would not do: two models can differ in few rows of one tensor, such as
    the embeddings of added tokens, and one would be shown the other's results.

    Args:
        file: where they are remembered from one run to the next; None remembers nothing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known = {} if file is None else _read(file)
        self._new = False

    def identity(self, checkpoint: Checkpoint) -> str:
        """Return the hash of all that makes a model: weights, configuration, tokenizer, code.

        Args:
            checkpoint: the model.

        Raises:
            InputError: a file changes while it is read.
            OSError: a file cannot be read.
        """
        folder = checkpoint.folder
        beside = [path for path in companion_files(folder) if not path.name.startswith(_SILENT)]
        small = [folder / name for name in (Path("config.json"), *beside)]
        old = [path for path in (folder / ORIGINAL,) if path.is_file()]
        files = [*checkpoint.weight_files, *small, *old]
        digest = hashlib.sha256()
        for path, content in zip(files, self._contents(files), strict=True):
            # Weight files may be called as they like, the others are found by their names.
            name = "" if path in checkpoint.weight_files else str(path.relative_to(folder))
            digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()

    def of_files(self, files: Sequence[Path]) -> str:
        """Return one hash of files' contents in their order, whatever the files are called.

        Args:
            files: such as all that hold a model's weights.

        Raises:
            InputError: a file changes while it is read.
            OSError: a file cannot be read.
        """
        return hashlib.sha256("\n".join(self._contents(files)).encode()).hexdigest()

    def keep(self) -> None:
        """Write down what was found out; nothing is written if nothing is new.

        Raises:
            StorageError: the disk is full or failed.
        """
        if self._file is None or not self._new:
            return
        with whole_file(self._file) as written:
            written.write_text(json.dumps(self._known, indent=1) + "\n", encoding="utf-8")
        self._new = False

    def _contents(self, files: Sequence[Path]) -> list[str]:
        stamps = {path: _stamp(path) for path in files}
        unread = [p for p in stamps if self._known.get(str(p.resolve()), [None])[0] != stamps[p]]
        now = time.time_ns()
        found = dict(zip(unread, _hashes(unread), strict=True))
        for path, content in found.items():
            if _stamp(path) != stamps[path]:
                raise InputError(
                    f"{path} changes while it is read; name a model that nobody writes to"
                )
            if now - max(stamps[path][2:]) > _SETTLED_SECONDS * 1e9:
                self._known[str(path.resolve())] = [stamps[path], content]
                self._new = True
        return [found.get(path) or str(self._known[str(path.resolve())][1]) for path in files]


def model_identity(checkpoint: Checkpoint) -> str:
    """Return the hash of all that makes a model, read from its files now.

    Raises:
        InputError: a file changes while it is read.
        OSError: a file cannot be read.
    """
    return ContentHashes().identity(checkpoint)


def _stamp(path: Path) -> list[int]:
    told = path.stat()
    return [told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns]


def _hashes(files: Sequence[Path]) -> list[str]:
    """Hash files, segments of them at the same time: one thread would read slower than the disk."""
    parts = [
        (path, start)
        for path in files
        for start in range(0, max(1, path.stat().st_size), _SEGMENT_BYTES)
    ]
    found: dict[Path, hashlib._Hash] = {path: hashlib.sha256() for path in files}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for (path, _), digest in zip(parts, pool.map(_segment, parts), strict=True):
            found[path].update(digest)
    return [found[path].hexdigest() for path in files]


def _segment(part: tuple[Path, int]) -> bytes:
    path, start = part
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = _SEGMENT_BYTES
        while left and (block := file.read(min(_BLOCK_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _read(file: Path) -> dict[str, list[object]]:
    """Return what an earlier run wrote down; what is damaged is found out anew."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {str(path): [list(stamp), str(content)] for path, (stamp, content) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
