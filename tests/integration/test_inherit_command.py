"""`bequest inherit` as a user runs it: its words, its exit codes, and what a bad input leaves."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from transformers import AutoConfig

from zoo import checks, keeper
from zoo.command import Outcome, command_line, environment, mounted, run, run_warm
from zoo.raw import read_folder
from zoo.refused import REFUSED


def assert_refused(outcome: Outcome, code: int, place: Path, names: list[str]) -> None:
    """One sentence on stderr, nothing on stdout, and nothing new beside the target."""
    assert outcome.code == code, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert sorted(path.name for path in place.iterdir()) == sorted(names)


def test_it_cuts_and_says_what_it_did(tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("inherit", keeper.folder("llama"), out, "--layers", "0,2-3")
    assert outcome.code == 0, outcome
    assert "Traceback" not in outcome.stderr
    specimen = keeper.SPECIMENS["llama"]
    expected = checks.cut_tensors(specimen, keeper.folder("llama"), (0, 2, 3))
    assert read_folder(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_quiet_and_json(tmp_path: Path) -> None:
    source = keeper.folder("llama")
    place, log = tmp_path / "place", tmp_path / "log"
    quiet = run_warm("inherit", source, place / "a", "--layers", "2", "--quiet", log=log)
    assert (quiet.code, quiet.stdout) == (0, "")
    told = run_warm("inherit", source, place / "b", "--layers", "2", "--json", log=log)
    assert told.code == 0
    assert isinstance(json.loads(told.stdout), dict)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    place, log = tmp_path / "place", tmp_path / "log"
    place.mkdir()
    out = place / "out"
    dry = run_warm("inherit", keeper.folder("llama"), out, "--layers", "2", "--dry-run", log=log)
    assert dry.code == 0, dry
    assert "2" in dry.stdout
    assert list(place.iterdir()) == []
    REFUSED["truncated"](tmp_path / "bad")
    bad = run_warm("inherit", tmp_path / "bad", out, "--layers", "2", "--dry-run", log=log)
    assert_refused(bad, 2, place, [])


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_source(name: str, tmp_path: Path) -> None:
    place, log = tmp_path / "place", tmp_path / "log"
    place.mkdir()
    REFUSED[name](tmp_path / "source")
    outcome = run_warm("inherit", tmp_path / "source", place / "out", "--layers", "2", log=log)
    assert_refused(outcome, 2, place, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layers", "5"],
        ["--layers", "0"],
        ["--layers", "half"],
        ["--layers", ""],
        ["--layers", "1,1"],
        ["--layers", "12:30"],
        ["--layers=-1"],
        [],
        ["--layers"],
        ["--layers", "2", "--dtype", "float23"],
        ["--layers", "2", "--max-shard-size", "5 bananas"],
        ["--layers", "2", "--no-such-flag"],
        ["--layers", "2", "surplus"],
        ["--layers", "2", "--seed", "zwei"],
        ["--layers", "2", "--config", "nowhere.yaml"],
    ],
    ids=" ".join,
)
def test_bad_arguments(arguments: list[str], tmp_path: Path) -> None:
    place, log = tmp_path / "place", tmp_path / "log"
    place.mkdir()
    outcome = run_warm("inherit", keeper.folder("llama"), place / "out", *arguments, log=log)
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert list(place.iterdir()) == []


def test_a_refusal_in_a_fresh_interpreter_is_one_sentence(tmp_path: Path) -> None:
    """No warning, progress bar or traceback of a library beside it."""
    outcome = run("inherit", keeper.folder("llama"), tmp_path / "out", "--layers", "9")
    assert_refused(outcome, 2, tmp_path, [])
    REFUSED["a_tensor_is_missing"](tmp_path / "source")
    outcome = run("inherit", tmp_path / "source", tmp_path / "out", "--layers", "2")
    assert_refused(outcome, 2, tmp_path, ["source"])


def test_an_existing_target_stays(tmp_path: Path) -> None:
    place, log = tmp_path / "place", tmp_path / "log"
    (place / "out").mkdir(parents=True)
    (place / "out" / "mine").write_text("mine")
    outcome = run_warm("inherit", keeper.folder("llama"), place / "out", "--layers", "2", log=log)
    assert_refused(outcome, 2, place, ["out"])
    assert (place / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize("size", ["32k", "64k", "100k"])
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_a_full_disk(size: str, shards: str, tmp_path: Path) -> None:
    """The whole needs 111 kB of tensors alone."""
    log = tmp_path / "log"
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        outcome = run_warm(
            *("inherit", keeper.folder("llama"), disk / "out", "--layers", "4"),
            *("--max-shard-size", shards),
            log=log,
        )
        assert_refused(outcome, 1, disk, [])
        assert "space" in outcome.stderr.lower()


def test_a_disk_without_room_for_one_more_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for inodes in range(2, 7):
        with mounted(tmp_path / f"disk{inodes}", *_tmpfs(f"nr_inodes={inodes}")) as disk:
            outcome = run_warm(
                "inherit", keeper.folder("llama"), disk / "out", "--layers", "4", log=log
            )
            assert_refused(outcome, 1, disk, [])


def _tmpfs(options: str) -> tuple[str, ...]:
    return ("-t", "tmpfs", "-o", options, "tmpfs")


def test_a_read_only_place(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", *_tmpfs("ro")) as disk:
        outcome = run_warm(
            *("inherit", keeper.folder("llama"), disk / "out", "--layers", "2"),
            log=tmp_path / "log",
        )
        assert_refused(outcome, 2, disk, [])
    outcome = run_warm(
        "inherit", keeper.folder("llama"), "/proc/out", "--layers", "2", log=tmp_path / "log"
    )
    assert outcome.code in (1, 2)
    assert outcome.stderr.count("\n") == 1, outcome.stderr


def test_a_source_on_a_read_only_disk_is_fine(tmp_path: Path) -> None:
    """Nothing is ever written beside the source."""
    disk = tmp_path / "disk"
    with mounted(disk, *_tmpfs("size=1m")):
        keeper.copy("llama", disk / "source", "sharded")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome = run_warm(
            "inherit", disk / "source", tmp_path / "out", "--layers", "2", log=tmp_path / "log"
        )
        assert outcome.code == 0, outcome


@pytest.mark.parametrize("limit", [0, 60_000])
def test_a_limit_on_the_size_of_files(limit: int, tmp_path: Path) -> None:
    """The system's other way of saying that no more can be written; the weights need 111 kB."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = ("inherit", keeper.folder("llama"), tmp_path / "out", "--layers", "4")
    assert_refused(run(*arguments, preexec_fn=limited), 1, tmp_path, [])


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_an_interrupt_ends_with_130_and_leaves_nothing(delay: float, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    source = big_source(tmp_path / "source")
    process = subprocess.Popen(
        command_line("inherit", source, place / "out", "--layers", "4"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    while not list(place.iterdir()) and time.monotonic() - begun < 60 and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    if (place / "out").exists():  # the interrupt came when the work was done
        checks.load_whole(place / "out")
        assert len(list(place.iterdir())) == 1
        return
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(place.iterdir()) == []


def big_source(target: Path) -> Path:
    """A llama of a few hundred megabytes, so that an interrupt falls into the copy."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    keeper.copy("llama", target)
    keeper.edit_config(target, intermediate_size=300_000)
    (target / "model.safetensors").unlink()
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(target)).state_dict()
    state = {key: torch.zeros(value.shape) for key, value in shapes.items()}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_an_interrupt_before_anything_began(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line("inherit", keeper.folder("llama"), tmp_path / "out", "--layers", "2"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_closed_stdout_does_not_spoil_the_work(tmp_path: Path) -> None:
    """`bequest inherit ... | head -0`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command_line("inherit", keeper.folder("llama"), tmp_path / "out", "--layers", "2"),
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    checks.load_whole(tmp_path / "out")


def test_names_that_shells_and_formats_stumble_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name in ["with space", "ünïcödé", "new\nline", "-dash", "%s{}", "a" * 200, "x.safetensors"]:
        place = tmp_path / "place"
        source = keeper.copy("llama", place / f"{name}-source")
        outcome = run_warm("inherit", source, place / name, "--layers", "2", log=log)
        assert outcome.code == 0, (name, outcome)
        checks.load_whole(place / name)
        assert len(list(place.iterdir())) == 2
        shutil.rmtree(place)


def test_a_target_in_the_working_folder_and_one_with_a_slash(tmp_path: Path) -> None:
    for out in ["./other/", "deep/er/out"]:
        outcome = run("inherit", keeper.folder("llama"), out, "--layers", "2", cwd=tmp_path)
        assert outcome.code == 0, outcome
        checks.load_whole(tmp_path / out)
