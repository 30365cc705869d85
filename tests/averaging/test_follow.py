"""Following a run from outside: against real writing processes, kills, interrupts and rotation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bequest
from averaging import runs
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.coefficients import coefficient_vector
from bequest.averaging.follow import _Watcher, follow
from bequest.averaging.follow_plan import plan_follow
from bequest.averaging.holding import holding
from bequest.averaging.plan import AveragePlan
from bequest.averaging.trajectory import Window
from bequest.checkpoints.run import find_checkpoints
from bequest.errors import BequestError

SOURCE = Path(bequest.__file__).parents[1]
TESTS = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(SOURCE), str(TESTS)]),
}
MAIN = "import sys; from bequest.cli.main import main; sys.exit(main())"


def config(run: Path, out: Path, **fields: Any) -> AverageConfig:
    return AverageConfig(sources=(str(run),), out=str(out), **fields)


def hold_to_reference(folder: Path, steps: tuple[int, ...]) -> None:
    vector = coefficient_vector("uniform", len(steps))
    exact = runs.exact_average(map(runs.state_of, steps), vector)
    runs.same_bits(runs.read(folder), exact, torch.float32)


def writer(run: Path, pause: float, out: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("follow_writer.py")
    arguments = [str(script), str(run), str(pause), str(out / "members")]
    return subprocess.Popen([sys.executable, *arguments], env=ENVIRONMENT)


def follower(run: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAIN, "average", str(run), str(out), "--follow"]
    return subprocess.Popen(
        [*command, "--poll", "0.05", *options],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(found: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def temporaries(out: Path) -> list[str]:
    return [p.name for p in out.rglob(".*") if not p.name.endswith(".taken.json")]


def test_a_run_that_keeps_two_checkpoints_is_averaged_over_three(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "run" / "lawa"
    run.mkdir()
    writing = writer(run, 0.4, out)
    told: list[AveragePlan] = []
    done = follow(config(run, out, window=3), keep=9, poll=0.05, report=told.append)
    assert writing.wait() == 0
    assert done.steps[-1] == 600
    assert [plan.target for plan in told] == list(done.averages)
    for step, folder in zip(done.steps, done.averages, strict=True):
        hold_to_reference(folder, (step - 200, step - 100, step))
    assert len(done.steps) >= 2  # A machine under load may be late, but not always.
    assert [c.step for c in find_checkpoints(out / "members")] == [400, 500, 600]
    assert [c.step for c in find_checkpoints(run)] == [500, 600]
    assert not temporaries(out)


def test_only_the_newest_averages_stay(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100, 200, 300))
    thread = threading.Thread(
        target=lambda: [
            (time.sleep(0.3), runs.write_trainer_checkpoint(run, step)) for step in (400, 500, 600)
        ]
    )
    thread.start()
    done = follow(config(run, tmp_path / "out", window=2, spacing=200), keep=2, poll=0.05)
    thread.join()
    assert done.steps[0] in (300, 400)
    left = [c.step for c in find_checkpoints(tmp_path / "out")]
    assert left == list(done.steps[-2:])
    hold_to_reference(tmp_path / "out" / "step-600", (400, 600))


def test_a_killed_follower_goes_on(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    writing = writer(run, 1.0, out)
    options = ("--window", "3", "--keep", "9")
    first = follower(run, out, *options)
    wait_for(lambda: (out / "members").is_dir() and len(find_checkpoints(out / "members")) >= 2)
    first.kill()
    first.communicate()
    (out / ".step-900.bequest-0123abcd.tmp").mkdir()  # As a kill during an average leaves it.
    (out / "members" / ".taking").mkdir(exist_ok=True)
    second = follower(run, out, *options)
    printed, errors = second.communicate(timeout=120)
    assert writing.wait() == 0
    assert second.returncode == 0, errors
    assert "The run has ended." in printed
    made = [c.step for c in find_checkpoints(out)]
    assert made[-1] == 600
    for step in made:
        hold_to_reference(out / f"step-{step}", (step - 200, step - 100, step))
    assert not temporaries(out)
    third = follower(run, out, *options)
    printed, errors = third.communicate(timeout=120)
    assert (third.returncode, errors) == (0, "")
    assert [c.step for c in find_checkpoints(out)] == made


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_follower_stops_when_it_is_told(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    run, out = runs.write_trainer_run(tmp_path / "run", (100, 200)), tmp_path / "out"
    process = follower(run, out, "--window", "2")
    wait_for((out / "step-200").is_dir)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    hold_to_reference(out / "step-200", (100, 200))
    assert not temporaries(out)


def test_what_is_being_written_is_not_used(tmp_path: Path) -> None:
    run, out = runs.write_trainer_run(tmp_path / "run", (100, 200)), tmp_path / "out"
    half = runs.write_trainer_checkpoint(run, 600)
    state = (half / "trainer_state.json").read_text()
    (half / "trainer_state.json").unlink()
    process = follower(run, out, "--window", "2")
    wait_for((out / "step-200").is_dir)
    time.sleep(0.5)
    assert process.poll() is None
    (half / "trainer_state.json").write_text(state)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    hold_to_reference(out / "step-600", (200, 600))


def test_files_of_a_program_of_ones_own(tmp_path: Path) -> None:
    run = runs.write_state_dicts(
        tmp_path / "run", lambda step: f"step{step}.safetensors", (100, 200)
    )
    thread = threading.Thread(
        target=lambda: (
            time.sleep(0.5),
            runs.write_state_dicts(run, lambda step: f"step{step}.safetensors", (300,)),
        )
    )
    thread.start()
    done = follow(config(run, tmp_path / "out", window=2, end=300), poll=0.05)
    thread.join()
    assert done.steps[-1] == 300
    hold_to_reference(tmp_path / "out" / "step-300", (200, 300))


@pytest.mark.parametrize("form", ["trainer", "state dicts"])
def test_an_end_between_two_checkpoints_is_the_end(form: str, tmp_path: Path) -> None:
    run, steps = tmp_path / "run", (100, 200, 300)
    if form == "trainer":
        runs.write_trainer_run(run, steps)
    else:
        runs.write_state_dicts(run, lambda step: f"step{step}.safetensors", steps)
    done = follow(config(run, tmp_path / "out", window=2, end=250), poll=0.05)
    assert done.steps == (200,)
    hold_to_reference(tmp_path / "out" / "step-200", (100, 200))


def test_news_that_come_while_the_follower_wakes_are_not_lost(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100,))
    with holding(tmp_path / "out", run) as held:
        watcher = _Watcher(run, held, Window(size=1), poll=60, end=None)

        class News(threading.Event):
            def clear(self) -> None:  # the watcher's thread sees the end at the worst moment
                if not watcher._ended:
                    watcher._ended = True
                    self.set()
                super().clear()

        watcher._news = News()
        watcher._news.set()
        assert watcher.wait()
        assert watcher._news.is_set()  # asked again, it does not wait for ever


def test_a_checkpoint_that_is_deleted_during_a_look_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.write_state_dicts(
        tmp_path / "run", lambda step: f"step{step}.safetensors", (100, 200)
    )
    (run / "step50").mkdir()
    listed = Path.rglob

    def rglob(path: Path, pattern: str) -> object:
        if path.name == "step50" and path.exists():
            path.rmdir()
            raise FileNotFoundError(path)
        return listed(path, pattern)

    monkeypatch.setattr(Path, "rglob", rglob)
    follow(config(run, tmp_path / "out", window=2, end=200), poll=0.05)
    assert not (run / "step50").exists()
    hold_to_reference(tmp_path / "out" / "step-200", (100, 200))


def test_a_member_that_is_written_to_is_let_go(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100, 200))
    file = run / "checkpoint-200" / "model.safetensors"
    with holding(tmp_path / "out", run) as held:
        for checkpoint in find_checkpoints(run):
            assert held.take(checkpoint)
        assert list(held.members()) == [100, 200]
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        time.sleep(0.02)
        with file.open("r+b") as opened:  # In place: the link sees it, too.
            opened.write(content)
        assert list(held.members()) == [100]
        held.release_all_but(Window(size=2), [100, 200])
        assert held.steps() == {100}
        assert held.take(find_checkpoints(run)[1])
        assert list(held.members()) == [100, 200]


def test_rotation_takes_no_member(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100, 200))
    with holding(tmp_path / "out", run) as held:
        for checkpoint in find_checkpoints(run):
            held.take(checkpoint)
        inode = (run / "checkpoint-100" / "model.safetensors").stat().st_ino
        shutil.rmtree(run / "checkpoint-100")
        member = held.members()[100]
        assert (member / "model.safetensors").stat().st_ino == inode
        assert runs.read(member).keys() == runs.state_of(100).keys()
        assert not (member / "optimizer.pt").exists()


def test_a_bad_member_ends_it_or_is_skipped(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (200, 400, 600))
    file = run / "checkpoint-400" / "model.safetensors"
    state = load_file(file)
    state["model.norm.weight"][0] = float("inf")
    save_file(state, file)
    with pytest.raises(BequestError, match="holds NaN or Inf"):
        follow(config(run, tmp_path / "out", window=3), poll=0.05)
    follow(config(run, tmp_path / "out", window=3, skip_bad=True), poll=0.05)
    hold_to_reference(tmp_path / "out" / "step-600", (200, 600))


def test_a_planned_follower_touches_nothing(tmp_path: Path) -> None:
    run, out = runs.write_trainer_run(tmp_path / "run", (100, 200, 300, 400)), tmp_path / "out"
    (run / "checkpoint-400" / "trainer_state.json").unlink()
    planned = plan_follow(config(run, out, window=2))
    assert [c.name for c in planned.candidates] == ["step-300"]
    assert "checkpoint-400 is not taken yet: it has no readable trainer_state.json" in " ".join(
        planned.notes
    )
    assert not out.exists()
    follow(config(run, out, window=2, end=300), poll=0.05)
    assert planned.written == (out / "step-300" / "model.safetensors").stat().st_size
    shutil.rmtree(run / "checkpoint-300")  # it is held
    runs.write_trainer_checkpoint(run, 400)
    before = sorted(out.rglob("*"))
    planned = plan_follow(config(run, out, window=2))
    steps = [[m.step for m in c.plan.members] for c in planned.candidates]
    assert steps == [[300, 400]]
    assert sorted(out.rglob("*")) == before
    planned = plan_follow(config(run, out, window=9))
    assert (planned.candidates, planned.written) == ((), 0)
    assert "No average can be made yet" in planned.notes[-2]


def test_follow_refuses(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100, 600))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(BequestError, match="no --follow wrote it"):
        follow(config(run, tmp_path / "other"))
    with pytest.raises(BequestError, match="the run itself"):
        follow(config(run, run))
    with pytest.raises(BequestError, match="is no folder"):
        follow(config(tmp_path / "none", tmp_path / "out"))
    with pytest.raises(BequestError, match="keep is 0"):
        follow(config(run, tmp_path / "out"), keep=0)
    with pytest.raises(BequestError, match="poll is 0"):
        follow(config(run, tmp_path / "out"), poll=0)
    with pytest.raises(BequestError, match="window is 0"):
        follow(config(run, tmp_path / "out", window=0))
    assert not (tmp_path / "out").exists()
    with (
        holding(tmp_path / "out", run),
        pytest.raises(BequestError, match="another --follow"),
    ):
        follow(config(run, tmp_path / "out"))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system here")
def test_another_disk_is_refused(tmp_path: Path) -> None:
    run = runs.write_trainer_run(tmp_path / "run", (100, 600))
    if Path("/dev/shm").stat().st_dev == run.stat().st_dev:
        pytest.skip("no second file system here")
    out = Path("/dev/shm") / f"bequest-{os.getpid()}"
    with pytest.raises(BequestError, match="hard links cannot reach"):
        follow(config(run, out))
    assert not out.exists()
