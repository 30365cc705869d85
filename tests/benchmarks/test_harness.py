"""The harness measures what it says: time, memory, order, checks, and what is in the page cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.harness import (
    BenchmarkError,
    Contender,
    Measurement,
    Spread,
    digits,
    run_in_turn,
    run_once,
    share_resident,
)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12346"),
    ],
)
def test_digits(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_spread_of_an_even_number_of_values() -> None:
    spread = Spread.of([4.0, 1.0, 2.0, 3.0])
    assert (spread.low, spread.median, spread.high) == (1.0, 2.5, 4.0)
    assert str(spread) == "2.50 (1.00 .. 4.00)"


def test_contenders_run_in_turn_after_a_warm_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    contenders = [
        Contender(name=name, command=python(f"open({str(log)!r}, 'a').write({name!r})"))
        for name in "ABC"
    ]
    measured = run_in_turn(contenders, repeats=2)
    assert log.read_text() == "ABCABCABC"
    assert {name: len(runs) for name, runs in measured.items()} == {"A": 2, "B": 2, "C": 2}


def test_a_run_is_measured_with_its_children() -> None:
    child = "x = bytearray(200 << 20); sum(range(3_000_000))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    taken = run_once(Contender(name="parent", command=python(code)))
    assert taken.peak_rss_bytes >= 200 << 20
    assert taken.cpu_seconds > 0.01
    assert taken.wall_seconds > 0.01


def test_sleep_takes_wall_but_no_processor_time() -> None:
    taken = run_once(Contender(name="sleep", command=("sleep", "0.3")))
    assert taken.wall_seconds >= 0.3
    assert taken.cpu_seconds < 0.3


def test_no_process_is_reported_below_the_floor() -> None:
    ballast = bytearray(os.urandom(1 << 20)) * 64
    taken = run_once(Contender(name="true", command=("true",)))
    assert taken.rss_floor_bytes >= len(ballast)
    assert taken.peak_rss_bytes >= 0.9 * taken.rss_floor_bytes


def test_a_failure_is_raised_with_what_the_command_said() -> None:
    failing = Contender(name="it", command=python("import sys; sys.exit('no such luck')"))
    with pytest.raises(BenchmarkError, match=r"it ended with 1: no such luck"):
        run_once(failing)


def test_a_failed_check_is_raised(tmp_path: Path) -> None:
    def check() -> None:
        raise BenchmarkError("wrong output")

    with pytest.raises(BenchmarkError, match="wrong output"):
        run_once(Contender(name="it", command=("true",), check=check))


def test_the_output_is_removed_before_each_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    maker = Contender(name="mkdir", command=("mkdir", str(out)), writes=out)
    run_in_turn([maker], repeats=2)
    assert out.is_dir()


def test_inputs_are_in_the_page_cache_when_the_command_starts(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "data"
    file.parent.mkdir()
    file.write_bytes(os.urandom(1 << 20))
    (tmp_path / "folder" / "empty").touch()
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = share_resident([file])
    taken = run_once(Contender(name="true", command=("true",), reads=(tmp_path / "folder",)))
    assert taken.resident == 1.0
    if before == 1.0:
        pytest.skip("this file system keeps its files in memory")
    assert before < 0.1


def test_what_other_contenders_read_is_not_in_the_page_cache(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for file in (mine, other):
        file.write_bytes(os.urandom(1 << 20))
    shares: list[float] = []

    def look() -> None:
        shares.extend([share_resident([mine]), share_resident([other])])

    run_once(
        Contender(name="true", command=("true",), reads=(mine,), check=look), cold=(mine, other)
    )
    if shares[1] == 1.0:
        pytest.skip("this file system keeps its files in memory")
    assert shares == [1.0, 0.0]


def test_pages_of_no_file_are_all_there() -> None:
    assert share_resident([]) == 1.0


def test_flushing_is_timed_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    taken = run_once(Contender(name="touch", command=("touch", str(out)), writes=out))
    assert isinstance(taken, Measurement)
    assert taken.flush_seconds > 0
