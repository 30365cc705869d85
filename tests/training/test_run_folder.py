"""The folder of a run: who may live there, what is gone on with, and what is never removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bequest.errors import InputError
from bequest.training.run_folder import STATE, check, newest_complete, opened
from bequest.training.run_place import check_place

RECORD = {"a": 1, "training": {"learning_rate": 0.1, "more": [1, 2]}}
OTHER = {"a": 1, "training": {"learning_rate": 0.2, "more": [1, 2]}}


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def open_run(run: Path, record: Any, *, overwrite: bool = False, packages: Sequence[str] = ()):
    return opened(run, record, packages=packages, overwrite=overwrite)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints 2 and 4, members of averages and a cache."""
    with open_run(tmp_path / "run", RECORD) as start:
        assert not start.goes_on and start.checkpoint is None and start.step == 0
    for step in (2, 4):
        checkpoint(tmp_path / "run", step)
    for name in ("averaging", "cache"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "file").touch()
    return tmp_path / "run"


def test_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "none") == (None, [])
    with open_run(tmp_path, RECORD):
        pass
    (tmp_path / "runs").mkdir()
    # Neither is the trainer's.
    shutil.copytree(checkpoint(tmp_path, 2), tmp_path / "checkpoint-18-kept")
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "step-20")
    for step in (4, 10, 12):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"half')
    (tmp_path / "checkpoint-12" / "optimizer.pt").unlink()
    archive = checkpoint(tmp_path, 14) / "scheduler.pt"
    archive.write_bytes(archive.read_bytes()[:-30])
    (checkpoint(tmp_path, 16) / "rng_state.pth").unlink()
    before = sorted(tmp_path.rglob("*"))
    point = check(tmp_path, RECORD, overwrite=False)
    assert (point.goes_on, point.step, point.checkpoint) == (True, 4, tmp_path / "checkpoint-4")
    assert point.notes == (
        "checkpoint-16 has no rng_state.pth: not resumed from.",
        "checkpoint-14 has a scheduler.pt that is cut short: not resumed from.",
        "checkpoint-12 has no optimizer state: not resumed from.",
        "checkpoint-10 has no readable trainer_state.json: not resumed from.",
    )
    assert sorted(tmp_path.rglob("*")) == before
    with open_run(tmp_path, RECORD) as start:
        assert (start.goes_on, start.step, start.checkpoint) == (True, 4, point.checkpoint)
    assert start.notes[0] == "checkpoint-16 has no rng_state.pth: it was left out and removed."
    assert start.notes[-1] == "The run goes on from checkpoint-4."
    assert newest_complete(tmp_path) == (tmp_path / "checkpoint-4", [])
    left = {path.name for path in tmp_path.glob("*") if path.name[0] != "."}
    assert left == {STATE, "runs", "checkpoint-18-kept", "step-20", "checkpoint-2", "checkpoint-4"}


def test_every_process_has_its_own_generators(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    assert newest_complete(tmp_path, 2) == (None, [(folder, "has no rng_state_0.pth")])
    for rank in (0, 1):
        torch.save({}, folder / f"rng_state_{rank}.pth")
    assert newest_complete(tmp_path, 2) == (folder, [])


def test_a_run_is_gone_on_with_only_by_its_own_settings(run: Path) -> None:
    assert not check(run.parent / "new", RECORD, overwrite=False).goes_on
    assert json.loads((run / STATE).read_text()) == {"identity": RECORD, "versions": ""}
    assert (
        check(run, RECORD, overwrite=False).goes_on and check(run, RECORD, overwrite=True).goes_on
    )
    for ask in (check, lambda *a, **b: open_run(*a, **b).__enter__()):
        with pytest.raises(InputError, match=r"training.learning_rate = 0.1 where it is now 0.2"):
            ask(run, OTHER, overwrite=False)
    assert not check(run, OTHER, overwrite=True).goes_on
    with open_run(run, OTHER, overwrite=True) as start:
        assert not start.goes_on and "is gone" in start.notes[0]
        assert newest_complete(run) == (None, [])
        assert (run / "cache" / "file").is_file() and not (run / "averaging").exists()
    assert check(run, OTHER, overwrite=False).goes_on


def test_other_versions_are_told(run: Path) -> None:
    state = {"identity": RECORD, "versions": "torch 0.4"}
    (run / STATE).write_text(json.dumps(state))
    with open_run(run, RECORD, packages=["torch"]) as start:
        assert start.step == 4
        assert start.notes[0].startswith("The run was begun with torch 0.4 and goes on with torch ")


def test_a_run_of_an_earlier_release_goes_on(run: Path) -> None:
    """Pre-training wrote its settings alone, under another name."""
    (run / STATE).unlink()
    (run / "bequest-run.json").write_text(json.dumps(RECORD))
    with pytest.raises(InputError, match=r"training.learning_rate = 0.1 where it is now 0.2"):
        check(run, OTHER, overwrite=False)
    with open_run(run, RECORD) as start:
        assert start.step == 4 and start.notes == ("The run goes on from checkpoint-4.",)
    with open_run(run, OTHER, overwrite=True):
        assert not (run / "bequest-run.json").exists()
    assert check(run, OTHER, overwrite=False).goes_on


def test_what_is_no_run_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    # Some other program's.
    (tmp_path / STATE).write_text('{"name": "sweep"}')
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds something that is no run of bequest"):
            check(tmp_path, {}, overwrite=overwrite)
        with (
            pytest.raises(InputError, match="holds something that is no run of bequest"),
            open_run(tmp_path, {}, overwrite=overwrite),
        ):
            pass
    with pytest.raises(InputError, match="is a file"):
        check(tmp_path / "thesis.tex", {}, overwrite=True)


def test_what_no_run_made_is_never_removed(tmp_path: Path) -> None:
    """A repository of its own, notes, and a copy of a checkpoint outlive the runs beside them."""
    for folder in (".git", "checkpoint-2-good"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "HEAD").touch()
        with open_run(tmp_path, RECORD):
            pass
    (tmp_path / "notes.md").touch()
    with open_run(tmp_path, OTHER, overwrite=True):
        pass
    kept = {".git", ".git/HEAD", "checkpoint-2-good", "checkpoint-2-good/HEAD", "notes.md"}
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert there == kept | {STATE, ".lock"}


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("next_one", [RECORD, OTHER])
def test_killed_while_it_is_emptied(
    run: Path, moment: int, next_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a checkpoint is gone; the old command goes on with whole ones, the new one is obeyed."""
    real, done = shutil.rmtree, []

    def die(path: Path) -> None:
        # Another process that plans the same is not refused at any moment.
        assert not check(run, OTHER, overwrite=True).goes_on
        if len(done) == moment:
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt
        done.append(path)
        real(path)

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt), open_run(run, OTHER, overwrite=True):
        pass
    monkeypatch.undo()
    if next_one is OTHER:
        with pytest.raises(InputError, match="--overwrite"):
            check(run, OTHER, overwrite=False)
    with open_run(run, next_one, overwrite=next_one is OTHER) as start:
        assert start.goes_on == (next_one is RECORD)
        if start.checkpoint is not None:
            assert len(list(start.checkpoint.iterdir())) == 5
            assert (run / "averaging" / "file").is_file()
    assert {path.name for path in run.glob(".*")} == {".lock"}
    assert check(run, next_one, overwrite=False).goes_on


def test_out_touches_nothing_that_is_read(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    (data / "text.jsonl").write_text("")
    (tmp_path / "link").symlink_to(data)
    reads = {"model": "some/hub-id", "data": str(data / "text.jsonl"), "held_out": str(data)}
    for out, field in ((data / "out", "held_out"), (data, "data"), (tmp_path / "link", "data")):
        with pytest.raises(InputError, match=f"out {out} overlaps {field} .*beside it"):
            check_place(run, reads=reads, out=out)
    check_place(run, reads=reads, out=tmp_path / "data-2")
    # Beside a file there is room; in a folder that is read as a whole there is none.
    check_place(run, reads={"data": str(data / "text.jsonl")}, out=data / "out")


@pytest.mark.parametrize("field", ["model", "data"])
def test_what_a_run_reads_lies_elsewhere(run: Path, field: str, tmp_path: Path) -> None:
    for inside in ("checkpoint-4", "checkpoint-4/model.safetensors", "."):
        with pytest.raises(InputError, match=f"run_dir {run} overlaps {field} .*beside it"):
            check_place(run, reads={"held_out": None, field: str(run / inside)})
    (tmp_path / "link").symlink_to(run / "checkpoint-2")
    with pytest.raises(InputError, match=f"overlaps {field}"):
        check_place(run, reads={field: tmp_path / "link"})
    with pytest.raises(InputError, match=f"overlaps {field}"):
        check_place(tmp_path / "link" / "run", reads={field: run / "checkpoint-2"})
    for out in (run / "out", run, tmp_path):
        with pytest.raises(InputError, match="overlaps out"):
            check_place(run, reads={}, out=out)
    (tmp_path / "run-2").mkdir()
    reads = {field: "run/hub-id", "held_out": tmp_path / "run-2"}
    check_place(run, reads=reads, out=tmp_path / "out")


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, {}),
        pytest.raises(InputError, match="in use by another process"),
        open_run(tmp_path, {}),
    ):
        pass
