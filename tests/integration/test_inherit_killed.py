"""`bequest inherit` killed at every file system call: the target is whole or not there."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zoo import checks, keeper
from zoo.command import Outcome, run_warm
from zoo.raw import Raw, read_folder

SOURCE = "llama"
NEW, OLD = (0, 1, 2), (1, 3)
LAYERS = {NEW: "3", OLD: "1,3"}


def _inherit(
    place: Path, log: Path, *flags: str, cut: tuple[int, ...] = NEW, moment: int | None = None
) -> Outcome:
    return run_warm(
        *("inherit", keeper.folder(SOURCE), place / "out", "--layers", LAYERS[cut], *flags),
        log=log,
        moment=moment,
    )


def _tensors(cut: tuple[int, ...]) -> dict[str, Raw]:
    return checks.cut_tensors(keeper.SPECIMENS[SOURCE], keeper.folder(SOURCE), cut)


def _moments(place: Path, log: Path, *flags: str) -> list[int]:
    """Number the calls of a run that is left alone, one of each series of calls of a kind.

    A kill between two writes to one file leaves nothing that a kill before the first does not.
    """
    outcome = _inherit(place, log, *flags)
    assert outcome.code == 0, outcome
    kinds = [line.split()[0] for line in (log / "moments").read_text().splitlines()]
    assert {"os.mkdir", "open", "fsync", "ctypes.dlsym"} <= set(kinds)
    return [index for index, kind in enumerate(kinds) if kind != kinds[index - 1]]


def _gather_leftovers(place: Path, grave: Path) -> None:
    for path in place.iterdir():
        if path.name != "out":
            assert path.name.startswith(".")
            path.rename(grave / path.name)


def test_killed_at_any_moment_the_target_is_whole_or_not_there(tmp_path: Path) -> None:
    flags = ("--max-shard-size", "40KB")
    log, grave = tmp_path / "log", tmp_path / "grave"
    grave.mkdir()
    seen = set()
    for moment in _moments(tmp_path / "counted", log, *flags):
        place = tmp_path / str(moment)
        place.mkdir()
        assert _inherit(place, log, *flags, moment=moment).code == -9
        _gather_leftovers(place, grave)
        seen.add((place / "out").exists())
        if (place / "out").exists():
            checks.load_whole(place / "out")
            assert read_folder(place / "out") == _tensors(NEW)
    assert seen == {True, False}
    _assert_the_next_start_buries(grave, log)


@pytest.mark.slow
def test_overwriting_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    log, grave = tmp_path / "log", tmp_path / "grave"
    grave.mkdir()
    assert _inherit(tmp_path / "counted", log, cut=OLD).code == 0
    shutil.copytree(tmp_path / "counted" / "out", tmp_path / "old")
    seen = set()
    for moment in _moments(tmp_path / "counted", log, "--overwrite"):
        place = tmp_path / str(moment)
        shutil.copytree(tmp_path / "old", place / "out")
        assert _inherit(place, log, "--overwrite", moment=moment).code == -9
        _gather_leftovers(place, grave)
        checks.load_whole(place / "out")
        found = read_folder(place / "out")
        assert found in (_tensors(OLD), _tensors(NEW)), moment
        seen.add(len(found))
    assert seen == {len(_tensors(OLD)), len(_tensors(NEW))}
    _assert_the_next_start_buries(grave, log)


def _assert_the_next_start_buries(grave: Path, log: Path) -> None:
    """Nobody locks the leftovers any more."""
    assert len(list(grave.iterdir())) > 10
    assert _inherit(grave, log).code == 0
    assert [path.name for path in grave.iterdir()] == ["out"]


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """One writes; another start must not take its temporary for a dead one's."""
    place = tmp_path / "place"
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(
            pool.map(lambda number: _inherit(place, tmp_path / f"log{number}"), range(4))
        )
    codes = sorted(outcome.code for outcome in outcomes)
    assert codes[0] == 0
    assert set(codes) <= {0, 1, 2}
    assert all("Traceback" not in outcome.stderr for outcome in outcomes)
    assert codes.count(0) == 1
    assert read_folder(place / "out") == _tensors(NEW)
    assert [path.name for path in place.iterdir()] == ["out"]


def test_neighbours_of_one_folder_do_not_clean_each_other_away(tmp_path: Path) -> None:
    place, log = tmp_path / "place", tmp_path / "log"
    log.mkdir()

    def inherit(number: int) -> Outcome:
        return run_warm(
            *("inherit", keeper.folder(SOURCE), place / f"out{number}", "--layers", "3"),
            log=log / str(number),
        )

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(inherit, range(8)))
    assert [outcome.code for outcome in outcomes] == [0] * 8, outcomes
    assert all(read_folder(place / f"out{number}") == _tensors(NEW) for number in range(8))
    assert len(list(place.iterdir())) == 8
