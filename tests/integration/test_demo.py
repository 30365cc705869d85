"""`make demo`, with two steps instead of thirty and few texts."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.command import environment

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"
TINY = ("--scale", "0.03", "--layers", "2")
BITS = re.compile(r"^   (\w+) +(\d+) +([\d,]+) +([\d.]+)$", re.MULTILINE)


def command(*options: str | Path) -> list[str]:
    return [sys.executable, str(DEMO), *map(str, options)]


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


def tables(folder: Path) -> dict[str, list[list[object]]]:
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {
        part["title"]: part["data"]["rows"]
        for part in document["sections"]
        if part["type"] == "table"
    }


@pytest.mark.slow
@pytest.mark.assets
def test_the_demo_runs_every_method_and_goes_on_where_it_was(
    tmp_path: Path, smollm2_folder: Path, brown_folder: Path
) -> None:
    first = run("--out", tmp_path, *TINY)
    assert first.returncode == 0, first.stderr
    printed = [shlex.split(line)[1:] for line in first.stdout.splitlines() if line[:5] == "   $ "]
    ran = [words[1] for words in printed if words[0] != "rm"]
    assert ran == [
        *("diagnose", "inherit", "pretrain", "average", "evaluate"),
        *("finetune", "finetune", "evaluate", "report"),
    ]
    assert not list(tmp_path.glob("*.run")), "checkpoints of published models are left behind"
    assert first.stdout.endswith(f"report: {tmp_path / 'report.html'}\n")

    # What is printed at the end is what the commands found.
    shown = {name: (blocks, bits) for name, blocks, _, bits in BITS.findall(first.stdout)}
    compared = tables(tmp_path / "depth")["Gains and losses"]
    found = {compared[0][4]: compared[0][6]} | {row[5]: row[7] for row in compared}
    assert shown == {
        name: ("30" if name == "whole" else "2", f"{bits:.3f}") for name, bits in found.items()
    }
    assert 0.8 < found["whole"] < 1.8 < found["trained"] < found["cut"]
    scheme = {
        name: json.loads((tmp_path / name / "bequest.json").read_text(encoding="utf-8"))
        for name in ("standard", "flow")
    }
    assert '"uniform"' in json.dumps(scheme["standard"])
    assert '"flow"' in json.dumps(scheme["flow"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Target against forgetting" in page

    second = run("--out", tmp_path, *TINY)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done before: ") == 8
    assert BITS.findall(second.stdout) == BITS.findall(first.stdout)

    other = run("--out", tmp_path, "--layers", "3")
    assert other.returncode == 2
    assert "holds a demo of other settings" in other.stderr


@pytest.mark.assets
def test_an_interrupt_ends_the_demo_and_its_command(
    tmp_path: Path, smollm2_folder: Path, brown_folder: Path
) -> None:
    started = subprocess.Popen(
        command("--out", tmp_path / "out", *TINY),
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    for line in started.stdout:
        if "sequences of" in line:
            break
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=100)
    assert started.returncode == 130
    assert errors.endswith("demo: interrupted; run it again to go on\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(started.pid, 0)


def test_a_scale_of_nothing_is_refused(tmp_path: Path) -> None:
    ended = run("--scale", "0", "--out", tmp_path)
    assert ended.returncode == 2
    assert "--scale is 0.0; give a number above 0" in ended.stderr


@pytest.mark.assets
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, smollm2_folder: Path, brown_folder: Path
) -> None:
    (tmp_path / "letter.txt").write_text("mine", encoding="utf-8")
    ended = run("--out", tmp_path)
    assert ended.returncode == 2
    assert "holds other files" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
