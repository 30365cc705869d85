"""Windows of steps, and which checkpoints of a run are found and complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import runs
from bequest.averaging.trajectory import Window, choose
from bequest.checkpoints.run import (
    TRAINER_MARKS,
    find_checkpoints,
    incompleteness,
    marks_of,
    step_of,
)
from bequest.errors import InputError

step_lists = st.lists(st.integers(1, 60), unique=True, min_size=1, max_size=20).map(sorted)


@given(step_lists, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 20)))
def test_windows_are_what_they_say(steps: list[int], size: int, spacing: int | None) -> None:
    window = Window(size=size, spacing=spacing)
    for end in steps:
        found = window.ending_at(end, steps)
        if spacing is None:
            before = steps[: steps.index(end) + 1]
            assert found == (tuple(before[-size:]) if len(before) >= size else None)
        else:
            wanted = [end - age * spacing for age in reversed(range(size))]
            assert found == (tuple(wanted) if all(step in steps for step in wanted) else None)
        assert (end in window.ends(steps)) == (found is not None)
        if found is not None:
            assert choose(window, steps, end, run="run") == found
            upto = [step for step in steps if step <= end]
            assert window.oldest_needed(upto) <= found[0]
        else:
            with pytest.raises(InputError):
                choose(window, steps, end, run="run")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("step1000", 1000),
        ("step-00004", 4),
        ("global_step12", 12),
        ("iter_0000007", 7),
        ("iteration-3.pt", 3),
        ("step-9.safetensors", 9),
        ("epoch=2", 2),
        ("ckpt_8.pth", 8),
        ("1500", 1500),
        ("step1000-unsharded", 1000),
        ("step1000-tokens4B", 1000),
        ("step2000-hf", 2000),
        ("iter-000100-ckpt.pth", 100),
        ("step-00001000", 1000),
        ("step1000-unsharded-tmp", None),
        ("step5-old", None),
        ("step5.tmp", None),
        ("iter-5-ckpt.pth.part", None),
        ("step-5-shadow.safetensors", None),
        ("5-ckpt", None),
        ("checkpoint-final", None),
        ("checkpoint-5-old", None),
        ("runs", None),
        ("version_2", None),
        ("tmp-checkpoint-5", None),
        (".step-5.bequest-00000000.tmp", None),
    ],
)
def test_steps_in_names(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_a_run_holds_more_than_checkpoints(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (10, 9))
    for name in ("logs", "averaging", "checkpoint-tmp"):
        (run / name).mkdir()
    for name in ("step7", "7.json", "trainer_state.json"):
        (run / name).write_text("{}")
    assert [checkpoint.step for checkpoint in find_checkpoints(run)] == [9, 10]


def test_two_forms_of_one_step_are_refused(tmp_path: Path) -> None:
    for name in ("step1000", "step2000-unsharded", "step01000-unsharded"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="both of step 1000; name the checkpoints themselves"):
        find_checkpoints(tmp_path)
    (tmp_path / "step1000").rmdir()
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [1000, 2000]


def test_completeness(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (1, 2))
    paths = [checkpoint.path for checkpoint in find_checkpoints(run)]
    assert marks_of(paths) == set(TRAINER_MARKS)
    assert incompleteness(paths[0]) is None
    (paths[0] / "optimizer.pt").unlink()
    assert incompleteness(paths[0]) == "has no optimizer state"
    assert incompleteness(paths[0], marks=()) is None
    (paths[1] / "trainer_state.json").write_text('{"global_step": ')
    assert "trainer_state.json" in (incompleteness(paths[1]) or "")
    weights = paths[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "truncated" in (incompleteness(paths[1], marks=()) or "")


def test_fsdp_and_deepspeed_keep_their_optimizers_elsewhere(tmp_path: Path) -> None:
    for step, name in enumerate(("optimizer_0", "global_step5", "optimizer.bin")):
        folder = tmp_path / f"checkpoint-{step}"
        runs.write_trainer_checkpoint(tmp_path, step)
        (folder / "optimizer.pt").unlink()
        assert incompleteness(folder) is not None
        (folder / name).mkdir()
        assert incompleteness(folder) is None
