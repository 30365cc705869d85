"""Many starts in one folder: no start takes away what another is writing."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bequest.checkpoints.publish import check_target, staged_folder

SECONDS = 3.0
FILES = 6


def test_a_storm_of_starts_leaves_every_folder_whole(tmp_path: Path) -> None:
    """Four processes publish, one is killed and started again, all in one parent folder."""
    children = [_fork(_publish, tmp_path / f"out{number}") for number in range(4)]
    children.append(_fork(_die_again_and_again, tmp_path / "killed"))
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 5


def test_a_folder_that_another_start_takes_for_a_leftover_is_given_up(tmp_path: Path) -> None:
    """Between its making and its lock, a recovery locks the temporary folder, then removes it."""
    child = _fork(_publish_while_robbed, tmp_path / "out", seconds=0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list((tmp_path / "out").iterdir())) == FILES


def _publish_while_robbed(target: Path) -> None:
    robbed: list[str] = []

    def remove(folder: str, lock: int) -> None:
        time.sleep(0.05)
        shutil.rmtree(folder)
        os.close(lock)

    def rob(event: str, arguments: tuple[object, ...]) -> None:
        if event != "fcntl.flock" or robbed:
            return
        folder = str(Path(f"/proc/self/fd/{arguments[0]}").readlink())
        robbed.append(folder)
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Thread(target=remove, args=(folder, lock)).start()

    sys.addaudithook(rob)
    _publish(target, pause=0.2)
    assert robbed


def _fork(work: Callable[[Path], None], target: Path, seconds: float = SECONDS) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(target)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                work(target)
            code = 0
        finally:
            os._exit(code)
    return child


def _publish(target: Path, pause: float = 0.0) -> None:
    with staged_folder(check_target(target, overwrite=True), overwrite=True) as staging:
        for number in range(FILES - 1):
            (staging / f"file{number}").write_bytes(b"x" * 1000)
        time.sleep(pause)
        (staging / "config.json").write_text("{}")
    assert len(list(target.iterdir())) == FILES


def _die_again_and_again(target: Path) -> None:
    child = os.fork()
    if child == 0:
        with staged_folder(check_target(target, overwrite=True), overwrite=True) as staging:
            for number in range(100):
                (staging / f"file{number}").write_bytes(b"x" * 1000)
            time.sleep(1)
        os._exit(0)
    time.sleep(random.random() * 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
