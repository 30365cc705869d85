"""Where a checkpoint's files are: a local folder, or a hub repository fetched into its cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bequest.checkpoints.publish import recover
from bequest.errors import CheckpointError, InputError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_HUB_FILES += ["*.py", "LICENSE*", "NOTICE*", "README.md"]


@dataclass(frozen=True, kw_only=True)
class Location:
    """A folder of a checkpoint and how it was named."""

    folder: Path
    """Absolute path of the folder with the files."""
    repo_id: str | None = None
    """Hub repository it came from; None for a local folder."""
    revision: str | None = None
    """Commit of the hub repository."""

    @property
    def name(self) -> str:
        """The hub id, or the folder's path."""
        return self.repo_id or str(self.folder)


def locate(source: str | Path, *, revision: str | None = None, field: str = "source") -> Location:
    """Find a checkpoint's folder, downloading a hub repository if `source` names one.

    Args:
        source: a local folder, or a hub id such as "HuggingFaceTB/SmolLM2-135M".
        revision: branch, tag or commit of a hub repository.
        field: what the caller calls this argument, for messages.

    Raises:
        InputError: no such folder or repository, or `revision` given for a local folder.
    """
    folder = Path(source).expanduser()
    recover(folder)
    if folder.is_dir():
        if revision is not None:
            raise InputError(
                f"revision is {revision!r}, but {field} {source} is a local folder: drop one of them."
            )
        return Location(folder=folder.resolve())
    if folder.exists():
        raise InputError(f"{field} {source} is a file; name the folder that holds the checkpoint.")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise InputError(f"{field} {source} does not exist; name a model folder or a hub id.")
    return _download(source, revision, field)


def _download(repo_id: str, revision: str | None, field: str) -> Location:
    from huggingface_hub import snapshot_download

    try:
        ignored = ["original/*", "onnx/*", "*/*.bin", "*/*.safetensors"]
        online, why = _hub_files(repo_id, revision)
        # One format of the weights is enough.
        if any(name.endswith(".safetensors") and "/" not in name for name in online or ()):
            ignored.append("*.bin")
        folder = snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=_HUB_FILES,
            ignore_patterns=ignored,
            local_files_only=online is None,
        )
    except Exception as error:  # The hub's client lets errors of its HTTP library through.
        wanted = repo_id if revision is None else f"{repo_id} at revision {revision}"
        raise InputError(
            f"{field} {wanted} is no local folder, and the hub did not give it "
            f"({why or _first_line(error)}); check the name, or the connection."
        ) from error
    path = Path(folder)
    # The hub cache names each snapshot's folder by its commit.
    return Location(folder=path.absolute(), repo_id=repo_id, revision=path.name)


def _hub_files(repo_id: str, revision: str | None) -> tuple[list[str] | None, str]:
    """List a repository's files, or say why the hub did not; its cache may still hold them."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None, "offline, and not in the cache"
    try:
        info = HfApi().model_info(repo_id, revision=revision, timeout=10)
    except Exception as error:  # As above.
        return None, _first_line(error)
    return [sibling.rfilename for sibling in info.siblings or ()], ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def require_plain_name(name: str, index: Path) -> str:
    """Return a file name from an index, refusing what could point outside the index's folder.

    Symbolic links are allowed: hub caches are made of them.

    Raises:
        CheckpointError: the name is empty, absolute, has a separator, or is `.` or `..`.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{index} names the file {name!r}; an index may name only files in its own folder."
        )
    return name
