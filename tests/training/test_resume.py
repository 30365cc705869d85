from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bequest.errors import InputError
from bequest.training.resume import RECORD, check_run, open_run, resume_point


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert resume_point(tmp_path / "none").checkpoint is None
    (tmp_path / "runs").mkdir()
    for step in (2, 4, 10, 12):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"half')
    (tmp_path / "checkpoint-12" / "optimizer.pt").unlink()
    archive = checkpoint(tmp_path, 14) / "scheduler.pt"
    archive.write_bytes(archive.read_bytes()[:-30])
    (checkpoint(tmp_path, 16) / "rng_state.pth").unlink()
    point = resume_point(tmp_path)
    assert (point.step, point.checkpoint) == (4, tmp_path / "checkpoint-4")
    assert point.notes == (
        "checkpoint-16 has no rng_state.pth: not resumed from.",
        "checkpoint-14 has a scheduler.pt that is cut short: not resumed from.",
        "checkpoint-12 has no optimizer state: not resumed from.",
        "checkpoint-10 has no readable trainer_state.json: not resumed from.",
    )


def test_every_process_has_its_own_generators(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    assert resume_point(tmp_path, processes=2).notes == (
        "checkpoint-2 has no rng_state_0.pth: not resumed from.",
    )
    for rank in (0, 1):
        torch.save({}, folder / f"rng_state_{rank}.pth")
    assert resume_point(tmp_path, processes=2).step == 2


def test_a_run_is_gone_on_with_only_by_its_own_settings(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = {"a": 1, "training": {"learning_rate": 0.1, "more": [1, 2]}}
    assert not check_run(run, record, overwrite=False)
    with open_run(run, record, goes_on=False):
        checkpoint(run, 2)
        (run / "cache").mkdir()
    assert json.loads((run / RECORD).read_text()) == record
    assert check_run(run, record, overwrite=False) and check_run(run, record, overwrite=True)
    other = {"a": 1, "training": {"learning_rate": 0.2, "more": [1, 2]}}
    with pytest.raises(InputError, match=r"training.learning_rate = 0.1 where it is now 0.2"):
        check_run(run, other, overwrite=False)
    assert not check_run(run, other, overwrite=True)
    with open_run(run, other, goes_on=False):
        assert resume_point(run).checkpoint is None and (run / "cache").is_dir()
    assert check_run(run, other, overwrite=False)


def test_what_is_no_run_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds something that is no run of bequest"):
            check_run(tmp_path, {}, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        check_run(tmp_path / "thesis.tex", {}, overwrite=True)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, {}, goes_on=False),
        pytest.raises(InputError, match="in use by another process"),
        open_run(tmp_path, {}, goes_on=True),
    ):
        pass
