"""The small files that travel with a model: tokenizer, chat template, processor, custom code."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

from bequest.errors import CheckpointError

_TRAVEL: tuple[str, ...] = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.py",
    "*.spm",
    "*.bpe",
)
_TRAVEL += ("LICENSE*", "NOTICE*", "USE_POLICY*")
_STAY: tuple[str, ...] = ("config.json", "*.index.json", "bequest.json", "results.json")
_STAY += (
    "bequest_start.json",
    "trainer_state.json",
    "*_results.json",
    "adapter_config.json",
    "requirements.txt",
)
_FOLDERS = ("additional_chat_templates",)


def companion_files(folder: Path) -> list[Path]:
    """List the files of a model's folder that a model made from it needs as they are.

    Tokenizer, chat templates, generation and processor configurations, licences and custom code;
    not weights, not `config.json`, not the model card, not what a training run left.

    Args:
        folder: the model's folder.

    Returns:
        Paths relative to `folder`, sorted.

    Raises:
        CheckpointError: one of them is a symbolic link out of the folder, other than to the blobs
            of the hub cache that the folder is part of.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    chosen = [Path(name) for name in names if _matches(name, _TRAVEL) and not _matches(name, _STAY)]
    for inner in _FOLDERS:
        chosen += [
            path.relative_to(folder) for path in (folder / inner).glob("*") if path.is_file()
        ]
    for path in chosen:
        _require_own(folder, path)
    return sorted(chosen)


def _require_own(folder: Path, relative: Path) -> None:
    """Refuse what a link brings in from elsewhere: it would be copied, and perhaps published."""
    home, target = folder.resolve(), (folder / relative).resolve()
    # The hub cache: models--NAME/snapshots/COMMIT/FILE is a link to models--NAME/blobs/HASH.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if not target.is_relative_to(home) and target.parent != blobs:
        raise CheckpointError(
            f"{folder / relative} is a symbolic link out of the model's folder, to {target}; put a "
            "copy in its place, or remove it."
        )


def copy_companions(source: Path, target: Path, files: list[Path]) -> None:
    """Copy companion files as files, also where the source (a hub cache) has symbolic links.

    Raises:
        OSError: reading or writing failed.
    """
    for relative in files:
        (target / relative).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / relative, target / relative)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
