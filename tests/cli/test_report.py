"""`bequest report` as a user types it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from bequest.cli.main import main
from reporting.samples import every_kind, lineage, write_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_run(tmp_path / "one", every_kind()[:1], "bequest inherit a one", lineage())
    write_run(tmp_path / "two", every_kind()[:1], "bequest average run two")
    (tmp_path / "empty").mkdir()
    (tmp_path / "scores.parquet").write_bytes(b"")
    write_run(tmp_path / "scores", every_kind()[:1], "bequest score m d scores.parquet")
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "folder.html").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        code = main(["report", *words])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_writes_a_page_and_a_card(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "one" / "README.md").write_text("# one\n")
    words = ["one", "two", "--out", "new/r.html", "--card", "one"]
    code, out, err = run(*words, capsys=capsys)
    assert (code, err) == (0, "") and "new/r.html" in out
    assert (here / "new" / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in (here / "new").iterdir()] == ["r.html"]
    assert "0.385" in (here / "one" / "README.md").read_text()


def test_a_dry_run_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("one", "--out", "r.html", "--dry-run", capsys=capsys)
    assert code == 0 and "dry run" in out and not (here / "r.html").exists()


def test_json_and_quiet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("one", "two", "--out", "r.html", "--json", capsys=capsys)
    (section,) = json.loads(out)["sections"]
    assert code == 0 and section["data"]["rows"][0] == ["one", 1, 0, True]
    assert run("one", "--out", "r.html", "--overwrite", "--quiet", capsys=capsys) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "runs is missing"),
        (["one"], "out is missing"),
        (["one", "--out", "r.txt"], r"ends in .html"),
        (["one", "--out", "old.html"], "exists already"),
        (["one", "--out", "folder.html"], "a folder"),
        (["one", "one/", "--out", "r.html"], "runs names one/ twice"),
        (["one", "two/../one/results.json", "--out", "r.html"], "twice (first as one)"),
        (["nowhere", "--out", "r.html"], "does not exist"),
        (["empty", "--out", "r.html"], "run empty has no results.json"),
        (["scores.parquet", "--out", "r.html"], "its results are in scores"),
        (["one", "--out", "r.html", "--card", "two"], "card two has no README.md"),
    ],
)
def test_wrong_use(
    here: Path, words: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    code, out, err = run(*words, capsys=capsys)
    assert code == 2 and found in err and out == "" and err.count("\n") == 1
    assert sorted(here.rglob("*")) == before and (here / "old.html").read_text() == "old"


def test_a_disk_that_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("no folder")
    code, _, err = run("one", "--out", "file/r.html", capsys=capsys)
    assert code == 1 and "cannot write file/r.html" in err


def test_the_documentation_s_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "report.md"
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    for name in ("student", "lawa", "scores"):
        write_run(tmp_path / name, every_kind()[:1], f"bequest make {name}")
    program, *words = shlex.split(blocks["bash"])
    assert program == "bequest" and main(words) == 0
    written = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    exec(blocks["python"], {})
    assert (tmp_path / "report.html").read_bytes() == written
