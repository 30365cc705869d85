"""Checkpoints of a live run, held by hard links so that the run's rotation cannot take them away.

A link costs no space and no time while the run keeps its checkpoint, and keeps the bytes when the
run deletes it. It does not help against a program that writes into a file it has written before, so
sizes and times are noted and compared.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bequest.averaging.trajectory import Window
from bequest.checkpoints.companions import companion_files
from bequest.checkpoints.formats import Weights, open_weights
from bequest.checkpoints.run import RunCheckpoint, find_checkpoints
from bequest.errors import BequestError, InputError

FOLDER = "members"
_NOTE = ".{}.taken.json"
_TAKING = ".taking"
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}


class NoLinksError(InputError):
    """The file system cannot link a checkpoint's files into the follower's folder."""


@contextmanager
def holding(out: Path, run: Path) -> Iterator[Holding]:
    """Open the store of a follower's members; no other process may have it open.

    Args:
        out: the follower's folder; made if it does not exist.
        run: the run's folder, which must be on the same file system.

    Raises:
        InputError: `out` holds something else, lies elsewhere, or is another follower's.
    """
    check_out(out, run)
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"out {out} belongs to another --follow that is running.") from error
        yield Holding(folder)
    finally:
        os.close(lock)


def check_out(out: Path, run: Path) -> None:
    """Refuse a folder in which a follower of a run cannot hold members; nothing is written.

    Args:
        out: the follower's folder; it need not exist.
        run: the run's folder, which must be on the same file system.

    Raises:
        InputError: `out` holds something else, or lies elsewhere.
    """
    folder = out / FOLDER
    if out.resolve() == run.resolve():
        raise InputError(
            f"out {out} is the run itself; name a folder of its own, such as {out}/lawa."
        )
    if out.exists() and not (out.is_dir() and (folder.is_dir() or not any(out.iterdir()))):
        raise InputError(f"out {out} exists and no --follow wrote it; name another folder.")
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if existing.stat().st_dev != run.stat().st_dev:
        raise InputError(
            f"out {out} is on another disk than run {run}, where hard links cannot reach; name a "
            "folder on the run's disk."
        )


class Holding:
    """The members that a follower holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder / _TAKING, ignore_errors=True)

    def steps(self) -> set[int]:
        """Return the steps of all that is held."""
        return {checkpoint.step for checkpoint in find_checkpoints(self._folder)}

    def members(self) -> dict[int, Path]:
        """Return the held members by step, increasing, but for those that were written to."""
        return {c.step: c.path for c in find_checkpoints(self._folder) if self.is_unchanged(c.path)}

    def release_all_but(self, window: Window, steps: Sequence[int]) -> None:
        """Let go of members that no later window needs, and of those that were written to.

        Args:
            window: of the averages.
            steps: all steps up to the last one whose average is made or not possible, increasing.
        """
        oldest = window.oldest_needed(steps)
        for checkpoint in find_checkpoints(self._folder):
            if checkpoint.step < oldest or not self.is_unchanged(checkpoint.path):
                self._release(checkpoint.path)

    def take(self, checkpoint: RunCheckpoint) -> bool:
        """Hold a complete checkpoint; False if it was gone or changed while it was taken.

        Raises:
            NoLinksError: the file system has no hard links.
            OSError: the disk failed.
        """
        taking = self._folder / _TAKING
        shutil.rmtree(taking, ignore_errors=True)
        target = taking / checkpoint.path.name
        try:
            weights = open_weights(checkpoint.path)
            taking.mkdir()
            if checkpoint.path.is_dir():
                _link_folder(weights, checkpoint.path, target)
            else:
                _link(checkpoint.path, target)
            note = _times(target)
            open_weights(target)  # Whole also now, after the linking.
        except NoLinksError:
            shutil.rmtree(taking, ignore_errors=True)
            raise
        except (FileNotFoundError, BequestError):
            shutil.rmtree(taking, ignore_errors=True)
            return False
        self._note(checkpoint.path).write_text(json.dumps(note))
        target.rename(self._folder / checkpoint.path.name)
        taking.rmdir()
        return True

    def is_unchanged(self, member: Path) -> bool:
        """Whether a member's files are those that were taken, by size and time of writing."""
        try:
            noted = json.loads(self._note(member).read_text())
        except (OSError, ValueError):
            return False
        return bool(noted == _times(member))

    def _release(self, member: Path) -> None:
        if member.is_dir():
            shutil.rmtree(member, ignore_errors=True)
        else:
            member.unlink(missing_ok=True)
        self._note(member).unlink(missing_ok=True)

    def _note(self, member: Path) -> Path:
        return self._folder / _NOTE.format(member.name)


def _link_folder(weights: Weights, source: Path, target: Path) -> None:
    """Link a checkpoint's weights and copy the small files that an average needs of it."""
    target.mkdir()
    for file in weights.weight_files:
        linked = target / file.relative_to(weights.location.folder)
        linked.parent.mkdir(parents=True, exist_ok=True)
        _link(file, linked)
    small = {path.name for path in source.glob("*.index.json")} | {"README.md", "bequest.json"}
    if weights.config_file is not None:
        small.add(weights.config_file)
    for name in (*map(Path, small), *companion_files(source)):
        if (source / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoLinksError(
                f"{source} cannot be hard-linked into {target.parents[2]} ({error.strerror}); "
                "name a folder on the run's own file system."
            ) from error
        raise


def _times(member: Path) -> dict[str, list[int]]:
    """Return size and time of writing of a member's files, by their names in it."""
    files = sorted(member.rglob("*")) if member.is_dir() else [member]
    times = {}
    for file in files:
        with suppress(FileNotFoundError):
            if file.is_file():
                status = file.stat()
                times[str(file.relative_to(member))] = [status.st_size, status.st_mtime_ns]
    return times
