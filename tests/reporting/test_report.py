"""The report's page: what stands in it, that nothing of it is markup from outside, same bytes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bequest
from bequest.errors import InputError
from bequest.reporting.page import render
from bequest.reporting.runs import read_runs
from reporting.samples import HOSTILE, every_kind, hostile_record, lineage, write_run

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Collects elements, ids and texts, and checks that what opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    first = lineage("big")
    second = lineage("out", operation="average", lineage=first)
    return [
        write_run(folder / "student", every_kind()[:1], "bequest inherit big student", first),
        write_run(folder / "lawa", every_kind(), "bequest average run lawa", second),
        write_run(folder / "scores", every_kind()[1:3], "bequest score m d scores.parquet"),
    ]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "made" / "r.html"
    return bequest.report(*runs, out=out).read_text(encoding="utf-8")


def test_every_section_is_there(page: str) -> None:
    read = Reader(page)
    text = " ".join(read.texts)
    for section in every_kind()[:-2]:
        assert section.title in text
    assert "Nothing" in text and "No values." in text
    # Two shapes of each of the nine pictures of sections, and two of the lineage.
    pictures = [has for tag, has in read.elements if "picture" in has.get("class", "").split()]
    assert len(pictures) == 2 * 9 + 2
    assert all(has["role"] == "img" and has["aria-labelledby"] for has in pictures)
    ids = [has["id"] for _, has in read.elements if "id" in has]
    assert len(ids) == len(set(ids))
    named = {name for _, has in read.elements for name in has.get("aria-labelledby", "").split()}
    assert named <= set(ids)
    links = {has["href"][1:] for tag, has in read.elements if tag == "a"}
    assert links <= set(ids)


def test_numbers_stand_as_the_command_prints_them(page: str) -> None:
    assert '<td class="number">0.360</td>' in page and '<td class="number">0.385</td>' in page
    assert '<td class="number" title="1.1421">1.142</td>' in page
    assert '<td class="number">\u22120.053</td>' in page


def test_nothing_is_asked_of_the_network(page: str) -> None:
    read = Reader(page)
    for tag, has in read.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "img"}, tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert has.get(name, "#").startswith(("#", "data:")), (tag, has)
    assert not re.search(r"@import|url\((?!#)", page)
    (policy,) = [has["content"] for _, has in read.elements if has.get("http-equiv")]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The page that the hostile ones must have the same elements as."""
    folder = tmp_path_factory.mktemp("calm") / "plain"
    write_run(folder, every_kind(named=" "), "c", hostile_record("x"))
    return Reader(render(read_runs([folder])))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_from_outside_stays_text(tmp_path: Path, calm: Reader, text: str) -> None:
    name = re.sub(r"[/\x00]|[\ud800-\udfff]", "", text)[:60]
    hostile = write_run(tmp_path / name, every_kind(named=text), text, hostile_record(text))
    angry = render(read_runs([hostile]))
    one, other = calm, Reader(angry)
    for tag in ("script", "img", "a", "h2", "h3", "th", "td", "style", "rect", "title", "svg"):
        assert one.count(tag) == other.count(tag), tag
    allowed = {name for _, has in one.elements for name in has}
    assert {name for _, has in other.elements for name in has} <= allowed
    shown = " ".join(" ".join(other.texts).split())
    for wanted in text.split():
        if wanted.isprintable() and wanted.isascii() and len(wanted) < 20:
            assert wanted in shown, wanted
    angry.encode("utf-8")
    assert "\u202e" not in angry
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", angry)


def test_the_same_input_gives_the_same_bytes(runs: list[Path], page: str, tmp_path: Path) -> None:
    import matplotlib

    # What else draws in the process has no say in it, nor is it disturbed.
    matplotlib.rcParams["font.size"] = 31.0
    try:
        other = bequest.report(*runs, out=tmp_path / "other.html").read_bytes()
        assert matplotlib.rcParams["font.size"] == 31.0
    finally:
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
    assert other == page.encode()


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    sections = every_kind()[:1]
    folders = [write_run(tmp_path / part / "out", sections, "c") for part in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/out", "b/out"]


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "out", every_kind()[:1], "c")
    (run,) = read_runs([folder / "results.json"])
    assert run.folder == folder.resolve()


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('{\n "schema_version": 1,\n "command": oops}', "expecting value in line 3, column 13"),
        ('{"schema_version": 2, "command": "c", "sections": []}', "schema_version 2; this .* 1"),
        ('{"command": "c", "sections": []}', "schema_version None"),
        ('{"schema_version": 1, "sections": []}', "lacks its command"),
        ('{"schema_version": 1, "command": "c", "sections": [7]}', "section without title"),
        ("[]", "holds list"),
        ("[" * 100_000, "no JSON"),
        ('{"schema_version": NaN}', "it holds NaN"),
        (
            '{"schema_version": 1, "command": "c", "sections": '
            '[{"title": "t", "type": "pie", "data": {}}]}',
            "one of table, lines",
        ),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, written: str, found: str) -> None:
    (tmp_path / "results.json").write_text(written)
    with pytest.raises(InputError, match=found) as refused:
        bequest.report(tmp_path, out=tmp_path / "r.html")
    assert str(tmp_path / "results.json") in str(refused.value)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"schema_version": 9}, "schema_version 9"),
        ({"settings": []}, "its settings"),
        ({"inputs": [{}]}, "an input"),
        ({"inputs": [{"name": "n", "lineage": {"schema_version": 1}}]}, "its operation"),
    ],
)
def test_damaged_lineage_is_refused(tmp_path: Path, change: dict[str, object], found: str) -> None:
    write_run(tmp_path, every_kind()[:1], "c", lineage() | change)
    with pytest.raises(InputError, match=found):
        bequest.report(tmp_path, out=tmp_path / "r.html")


@pytest.mark.parametrize(("largest", "pictures"), [(1e100, 8), (1.7976931348623157e308, 0)])
def test_values_from_the_edge_of_floats_are_shown(
    tmp_path: Path, largest: float, pictures: int
) -> None:
    document = json.loads(json.dumps({"schema_version": 1, "command": "c", "sections": []}))
    axes = {"x_label": "x", "y_label": "y"}
    extreme = [-largest, 0.0, 5e-324, largest]
    for kind, data in {
        "lines": {**axes, "series": [{"name": "a", "x": extreme, "y": extreme}]},
        "scatter": {**axes, "series": [{"name": "a", "x": extreme, "y": extreme}]},
        "histogram": {
            **axes,
            "edges": extreme,
            "series": [{"name": "a", "counts": [1, largest, 2]}],
        },
        "heatmap": {**axes, "value_label": "v", "x": [1, 2, 3, 4], "y": ["a"], "values": [extreme]},
        "table": {"columns": ["a"], "rows": [[value] for value in extreme]},
    }.items():
        document["sections"].append({"title": kind, "type": kind, "data": data})
    (tmp_path / "results.json").write_text(json.dumps(document))
    page = bequest.report(tmp_path, out=tmp_path / "r.html").read_text(encoding="utf-8")
    assert Reader(page).count("figure") == pictures / 2
    assert "nan" not in page.lower().replace("finance", "")
