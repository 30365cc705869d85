"""RESULTS.md: a section is written in its place, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Measurement
from benchmarks.page import peak_megabytes, provenance, seconds, table, write_section


def measurement(**changes: float) -> Measurement:
    values: dict[str, float] = {
        "wall_seconds": 1.0,
        "cpu_seconds": 1.0,
        "peak_rss_bytes": 10_000_000,
        "rss_floor_bytes": 20_000_000,
        **changes,
    }
    return Measurement(**values)  # type: ignore[arg-type]


def test_writing_twice_is_writing_once(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section("one", "One", "first", path)
    write_section("two", "Two", "second", path)
    text = path.read_text()
    write_section("one", "One", "first", path)
    assert path.read_text() == text
    assert text.index("first") < text.index("second")
    assert [entry.name for entry in tmp_path.iterdir()] == ["RESULTS.md"]


def test_a_section_is_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for name in ("one", "two", "three"):
        write_section(name, name.title(), f"body of {name}", path)
    before = path.read_text()
    write_section("two", "Two anew", "other", path)
    assert path.read_text() == before.replace("## Two\n\nbody of two", "## Two anew\n\nother")


def test_a_name_that_opens_another_name_is_another_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section("inherit-8", "A", "a", path)
    write_section("inherit", "B", "b", path)
    write_section("inherit-8", "A", "c", path)
    assert path.read_text().count("<!-- begin inherit") == 2


def test_text_around_the_sections_stays(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# By hand\n\n<!-- begin a -->\nold\n<!-- end a -->\n\nA note.\n")
    write_section("a", "A", "new", path)
    assert path.read_text().startswith("# By hand\n\n<!-- begin a -->\n## A\n\nnew\n")
    assert path.read_text().endswith("<!-- end a -->\n\nA note.\n")


@pytest.mark.parametrize(
    "damaged",
    ["<!-- begin a -->\n", "<!-- end a -->\n<!-- begin a -->\n", "<!-- begin a -->" * 2],
)
def test_damaged_marks_are_refused_and_kept(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(damaged)
    with pytest.raises(ValueError, match="damaged marks for 'a'"):
        write_section("a", "A", "new", path)
    assert path.read_text() == damaged


def test_a_name_that_would_break_a_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use letters"):
        write_section("a --> b", "A", "new", tmp_path / "RESULTS.md")


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.text(st.characters(codec="ascii"), max_size=20)),
        max_size=8,
    )
)
def test_each_section_holds_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("page") / "RESULTS.md"
    for name, body in writes:
        write_section(name, name, body.replace("\r", ""), path)
    text = path.read_text() if writes else ""
    for name, body in dict(writes).items():
        inner = text.split(f"<!-- begin {name} -->\n")[1].split(f"\n<!-- end {name} -->")[0]
        assert inner == f"## {name}\n\n{body.replace(chr(13), '').strip()}"


def test_table() -> None:
    assert table(["", "a"], [["x", "1"], ["y", "2"]]) == (
        "|  | a |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n"
    )


def test_memory_below_the_floor_is_given_as_a_bound() -> None:
    low = measurement(peak_rss_bytes=20_000_000)
    assert peak_megabytes([low, low]) == "under 20.0"
    high = measurement(peak_rss_bytes=50_000_000)
    assert peak_megabytes([low, high]) == "35.0 (20.0 .. 50.0)"


def test_flushing_counts_when_asked() -> None:
    runs = [measurement(wall_seconds=1.0, flush_seconds=0.5)]
    assert seconds(runs) == "1.00 (1.00 .. 1.00)"
    assert seconds(runs, flushed=True) == "1.50 (1.50 .. 1.50)"


def test_provenance_names_machine_and_versions(tmp_path: Path) -> None:
    text = provenance(packages=("numpy", "no-such-package"), folder=tmp_path)
    for part in ("cores", "GB of memory", "Linux", "Python 3.", "numpy ", "not installed"):
        assert part in text
