"""The folder of a training run: what the run is, where it stands, and who works in it.

    run.json          what the run is: every setting that its numbers depend on
    checkpoint-N/     what the trainer saves
    averaging/        members of averages
    ...               what else runs of a kind keep, such as scores or stages

A run that is broken off at any moment is taken up from its newest complete checkpoint. `check` asks
while a run is planned and changes nothing; `opened` asks again with the folder locked, and its
answer counts. Only names that runs make are ever removed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.checkpoints.lineage import package_versions
from bequest.checkpoints.run import TRAINER_STATE
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import BequestError, InputError, StorageError
from bequest.losses.processes import from_first, rank_and_size
from bequest.training.resumable import differences, held, lack

STATE = "run.json"
"""The mark of a run's folder: its identity, and the versions that it was begun with."""
_FORMER_STATE = "bequest-run.json"
"""What pre-training and inheritune wrote before: the identity alone."""
MADE = (r"checkpoint-\d+", "averaging", "runs")
"""Names that a trainer makes in a run's folder, as patterns. `cache` is not among them: what it
holds is named by its contents, and stays for the next run."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_GOING = ".removed-"
"""Before a folder is removed its name gets this prefix, so that no half of it is ever read."""


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """How a run begins in its folder."""

    goes_on: bool
    """Whether the folder holds this very run already."""
    checkpoint: Path | None = None
    """The newest complete checkpoint; None at the very beginning."""
    notes: tuple[str, ...] = ()
    """What the user should hear."""

    @property
    def step(self) -> int:
        """The step after which it goes on, or 0."""
        return 0 if self.checkpoint is None else _step(self.checkpoint)


def check(
    run: Path,
    identity: Mapping[str, Any],
    *,
    overwrite: bool,
    processes: int = 1,
    field: str = "run_dir",
) -> RunStart:
    """Say how a run would begin as its folder is now, and refuse one of other settings.

    Args:
        run: the run's folder; it need not exist.
        identity: everything that decides the run's numbers.
        overwrite: whether a run of other settings may be thrown away.
        processes: how many train.
        field: what the user calls `run`.

    Raises:
        InputError: the folder holds a run of other settings, or something else.
    """
    if not _is_same(earlier_run(run, field), identity, run, field, overwrite=overwrite):
        return RunStart(goes_on=False)
    checkpoint, incomplete = newest_complete(run, processes)
    notes = tuple(f"{path.name} {lacks}: not resumed from." for path, lacks in incomplete)
    return RunStart(goes_on=True, checkpoint=checkpoint, notes=notes)


@contextmanager
def opened(
    run: Path,
    identity: Mapping[str, Any],
    *,
    packages: Sequence[str],
    overwrite: bool,
    processes: int = 1,
    made: Sequence[str] = MADE,
    field: str = "run_dir",
) -> Iterator[RunStart]:
    """Hold a run's folder while it runs, and say how it begins: every process hears the same.

    The first process locks the folder and decides; it removes checkpoints whose writing was cut
    short, because the trainer would count and keep them.

    Args:
        run: the run's folder, which is made.
        identity: as for `check`.
        packages: those whose versions decide about the last bits; a change is told.
        overwrite: as for `check`: everything that such a run made goes.
        processes: as for `check`.
        made: patterns of the names that runs of this kind make.
        field: as for `check`.

    Raises:
        InputError: the folder holds a run of other settings or something else, is in use, or
            cannot be made.
        StorageError: the folder cannot be written.
    """
    with ExitStack() as stack:
        decided: RunStart | BequestError | None = None
        if rank_and_size()[0] == 0:
            try:
                stack.enter_context(held(run, field))
                versions = " ".join(f"{n} {v}" for n, v in package_versions(packages).items())
                decided = _begin(run, identity, versions, overwrite, processes, made, field)
            except BequestError as error:
                decided = error
            except OSError as error:
                decided = StorageError(f"{field} {run} cannot be written: {error}")
        # An error too, or the other processes would wait.
        decided = from_first(decided)
        if isinstance(decided, BequestError):
            raise decided
        assert decided is not None
        yield decided


def newest_complete(run: Path, processes: int = 1) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Find the newest checkpoint of a run that a trainer can go on from exactly.

    Args:
        run: the run's folder; it need not exist.
        processes: how many train.

    Returns:
        The checkpoint, or None, and each newer one with what it lacks.
    """
    there = list(run.iterdir()) if run.is_dir() else []
    checkpoints = [path for path in there if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    incomplete: list[tuple[Path, str]] = []
    for path in sorted(checkpoints, key=_step, reverse=True):
        lacks = lack(path, processes)
        if lacks is None:
            return path, incomplete
        incomplete.append((path, lacks))
    return None, incomplete


def written(run: Path, made: Sequence[str] = MADE) -> int:
    """Return the bytes that a run has in its folder already.

    Args:
        run: the run's folder.
        made: as for `opened`.
    """
    files = [file for path in _of_run(run, made) for file in (path, *path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Return what the trainer wrote about the run in a complete checkpoint."""
    return read_json(checkpoint / TRAINER_STATE)


def _begin(
    run: Path,
    identity: Mapping[str, Any],
    versions: str,
    overwrite: bool,
    processes: int,
    made: Sequence[str],
    field: str,
) -> RunStart:
    earlier = earlier_run(run, field)
    goes_on = _is_same(earlier, identity, run, field, overwrite=overwrite)
    for path in run.glob(f"{_GOING}*"):
        shutil.rmtree(path)
    notes: list[str] = []
    if not goes_on:
        if earlier is not None:
            # The mark is replaced last: killed before, this is done again.
            for path in _of_run(run, made):
                _remove(path)
            notes.append("The run of other settings that was there is gone.")
        text = json.dumps({"identity": dict(identity), "versions": versions}, indent=1)
        with whole_file(run / STATE) as file:
            file.write_text(text + "\n", encoding="utf-8")
        (run / _FORMER_STATE).unlink(missing_ok=True)
        return RunStart(goes_on=False, notes=tuple(notes))
    assert earlier is not None
    if earlier["versions"] not in (versions, None):
        notes.append(
            f"The run was begun with {earlier['versions']} and goes on with {versions}: "
            "the last bits may differ from an uninterrupted one."
        )
    checkpoint, incomplete = newest_complete(run, processes)
    for path, lacks in incomplete:
        _remove(path)
        notes.append(f"{path.name} {lacks}: it was left out and removed.")
    if checkpoint is not None:
        notes.append(f"The run goes on from {checkpoint.name}.")
    return RunStart(goes_on=True, checkpoint=checkpoint, notes=tuple(notes))


def earlier_run(run: Path, field: str) -> dict[str, Any] | None:
    """Return the identity and versions of the run in a folder, or None if there is none.

    Args:
        run: the folder; it need not exist.
        field: what the user calls it.

    Raises:
        InputError: it is a file, or holds something else.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"{field} {run} is a file; name a folder")
    for name in (STATE, _FORMER_STATE):
        if (run / name).is_file():
            read = read_json(run / name)
            if name == _FORMER_STATE:
                return {"identity": read, "versions": None}
            if isinstance(read.get("identity"), dict):
                return {"identity": read["identity"], "versions": read.get("versions")}
    # A run that died at once has left its lock. What else is hidden is not the run's, and stays.
    there = sorted(run.iterdir()) if run.is_dir() else []
    others = [path.name for path in there if path.name != "cache" and path.name[0] != "."]
    if others:
        raise InputError(
            f"{field} {run} holds something that is no run of bequest ({others[0]}); name something "
            "else"
        )
    return None


def _is_same(
    earlier: Mapping[str, Any] | None,
    identity: Mapping[str, Any],
    run: Path,
    field: str,
    *,
    overwrite: bool,
) -> bool:
    """Return whether a folder holds this very run; refuse another one that must not go."""
    if earlier is None:
        return False
    # As it comes back from its file.
    changed = differences(earlier["identity"], json.loads(json.dumps(dict(identity))))
    if changed and not overwrite:
        raise InputError(
            f"{field} {run} holds a run with {changed[0]}; put it back to go on, name another "
            f"{field}, or pass --overwrite to throw that run away"
        )
    return not changed


def _of_run(run: Path, made: Sequence[str]) -> list[Path]:
    """List what a run made, checkpoints first: each needs what comes after it."""
    found = [p for p in run.iterdir() if any(re.fullmatch(name, p.name) for name in made)]
    return sorted(found, key=lambda p: (_CHECKPOINT.fullmatch(p.name) is None, p.name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        going = path.with_name(f"{_GOING}{path.name}")
        path.rename(going)
        shutil.rmtree(going)
    else:
        path.unlink()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
