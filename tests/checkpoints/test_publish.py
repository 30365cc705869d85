"""Folders that appear whole or not at all, whoever dies when."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from bequest.checkpoints import publish
from bequest.checkpoints.publish import check_target, recover, staged_folder
from bequest.errors import InputError


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)


def read(folder: Path) -> str:
    return (folder / "config.json").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "deep" / "out") as staging:
        write(staging, "new")
        assert not (tmp_path / "deep" / "out").exists()
    assert read(tmp_path / "deep" / "out") == "new"
    assert names(tmp_path / "deep") == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "deep" / "out") as staging:
        write(staging, "new")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_overwriting_exchanges(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with staged_folder(tmp_path / "out", overwrite=True) as staging:
        write(staging, "new")
        assert read(tmp_path / "out") == "old"
    assert read(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_overwriting_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on file systems without renameat2's flags.
    monkeypatch.setattr(publish, "_rename", lambda *_: False)
    write(tmp_path / "out", "old")
    with staged_folder(tmp_path / "out", overwrite=True) as staging:
        write(staging, "new")
    assert read(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_a_target_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"), staged_folder(tmp_path / "out") as staging:
        write(staging, "new")
        write(tmp_path / "out", "somebody else's")
    assert read(tmp_path / "out") == "somebody else's"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    target = check_target(tmp_path / "out", overwrite=False)
    with staged_folder(target) as staging:
        write(staging, "new")
    assert read(tmp_path / "out") == "new"


def _hold(target: Path, ready: multiprocessing.synchronize.Event) -> None:
    with staged_folder(target) as staging:
        write(staging, "half")
        ready.set()
        time.sleep(60)


def test_leftovers_go_when_their_process_is_gone_and_not_before(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "out", ready))
    process.start()
    assert ready.wait(30)
    recover(tmp_path / "out")
    assert len(names(tmp_path)) == 1, "the folder of a living process was taken"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(names(tmp_path)) == 1
    recover(tmp_path / "another")
    assert names(tmp_path) == []


def test_a_run_that_died_between_two_renames_gives_the_old_one_back(tmp_path: Path) -> None:
    write(tmp_path / ".out.bequest-0123abcd.old", "old")
    write(tmp_path / ".out.bequest-0123abcd.tmp", "new")
    recover(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert read(tmp_path / "out") == "old"


def test_what_only_looks_alike_stays(tmp_path: Path) -> None:
    for name in (".out.bequest-0123abcd", ".out.bequest-xyz.tmp", "out.bequest-0123abcd.tmp"):
        write(tmp_path / name, "mine")
    recover(tmp_path / "out")
    assert len(names(tmp_path)) == 3


def test_only_models_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="no model folder"):
        check_target(tmp_path / "out", overwrite=True)
