"""Killed with SIGKILL in any state and run again, inheritune ends with the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.tiny_inheritune import STEPS, settings, write_reference
from zoo.command import environment

SCRIPT = Path(__file__).with_name("inheritune_kill_run.py")
PUBLISHING = "bequest.training.pretrain.write_finished"
GROWING = "bequest.inheritance.grow.build"
GROWN = "bequest.inheritance.build.write_lineage"
REMOVING = "shutil.rmtree"
Kills = list[tuple[str, int]]
QUICK: dict[str, Kills] = {
    # The second process begins with the third step of the first round.
    "in both rounds": [("step", 3), ("step", 5)],
    "in grow, then in publishing what it led to": [(GROWING, 0), (PUBLISHING, 0)],
}
SLOW: dict[str, Kills] = {
    "at the last file of a start": [(GROWN, 0), (GROWN, 1)],
    "in publishing each round": [(PUBLISHING, 0), (PUBLISHING, 0)],
}
"""When each run is killed, one death after another; a round that is there is not done again."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("inheritune"))


def job(
    given: Path, out: Path, kill: tuple[str, int] | None = None, *words: str, **changes: Any
) -> dict[str, Any]:
    """A run of two rounds, the second of which goes on from the first."""
    file = out.with_name(f"{out.name}-{changes.get('growth', 'continue')}.yaml")
    asked = {"max_rounds": 2, "growth": "continue"} | changes
    file.write_text(yaml.safe_dump(settings(given, out, **asked)))
    return {"words": ["--config", str(file), *words], "kill": kill}


def carry_out(folder: Path, jobs: list[dict[str, Any]]) -> None:
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "jobs.json")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    expected = [0 if one["kill"] is None else -signal.SIGKILL for one in jobs]
    assert json.loads(done.stdout.splitlines()[-1]) == expected, done.stderr[-4000:]


def compare(own: Path, whole: Path) -> None:
    """Hold all starts and models to those of the run that never was killed."""
    files = [path.relative_to(whole) for path in whole.rglob("model.safetensors")]
    parts = {str(file.parent) for file in files if ".run" not in str(file)}
    assert parts == {f"round-0{n}/{part}" for n in (1, 2) for part in ("start", "model")}
    for file in files:
        assert (own / file).read_bytes() == (whole / file).read_bytes(), file
    hidden = {path.name for path in own.rglob(".*")}
    assert hidden == {".lock"}


def check(given: Path, folder: Path, kills: dict[str, Kills]) -> None:
    jobs = [job(given, folder / "whole")]
    outs = [folder / f"out-{number}" for number in range(len(kills))]
    for out, moments in zip(outs, kills.values(), strict=True):
        jobs += [job(given, out, kill) for kill in [*moments, None]]
    carry_out(folder, jobs)
    for out in outs:
        compare(out, folder / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_and_run_again(given: Path, tmp_path: Path) -> None:
    check(given, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_other_moments(given: Path, tmp_path: Path) -> None:
    check(given, tmp_path, SLOW)


@pytest.mark.timeout(1800)
def test_killed_while_an_earlier_run_is_thrown_away(given: Path, tmp_path: Path) -> None:
    """What is left of it does not stand in the way, and is not taken for the new run's."""
    out = tmp_path / "out"
    jobs = [job(given, tmp_path / "whole"), job(given, out, ("step", STEPS + 1), growth="restart")]
    for number in (0, 1):
        jobs.append(job(given, out, (REMOVING, number), "--overwrite"))
    carry_out(tmp_path, [*jobs, job(given, out, None, "--overwrite")])
    compare(out, tmp_path / "whole")
