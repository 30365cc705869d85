"""`bequest score` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bequest.cli.main import main
from bequest.weighting.score_file import read_scores
from training.tiny_sft import FORMS, save_model, write_json_lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_json_lines(tmp_path / "d.jsonl", FORMS["prompt-completion"])


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["score", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_scores_and_says_what_it_saw(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.parquet"
    code, told, err = run(model, data, out, "--tokens", "--max-length", 30, capsys=capsys)
    assert (code, err) == (0, "")
    for words in ("about", "truncated", "Quantiles", "hardest tenth", "count like", "s.parquet in"):
        assert words in told
    scores = read_scores(out)
    assert scores.token_losses is not None and scores.metadata["max_length"] == 30
    assert run(model, data, out, capsys=capsys)[0] == 2
    words = ["--overwrite", "--quiet", "--temperature", "0.5", "--sft", "truncation_mode=keep_end"]
    assert run(model, data, out, *words, capsys=capsys) == (0, "", "")
    assert read_scores(out).metadata["temperature"] == 0.5


def test_json_is_what_is_left(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = run(model, data, tmp_path / "s.parquet", "--json", capsys=capsys)
    left = json.loads((tmp_path / "s" / "results.json").read_text())
    assert code == 0 and json.loads(told) == left
    assert [section["type"] for section in left["sections"]] == [
        *["table"] * 4,
        *["histogram"] * 2,
        "table",
    ]


def test_a_dry_run_counts_and_writes_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, _ = run(model, data, tmp_path / "s.parquet", "--dry-run", capsys=capsys)
    assert code == 0 and "estimated time" in told and "dry run" in told
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "out is missing"),
        (["s.parquet", "--temperature", "0"], "temperature"),
        (["s.parquet", "--sft", "max_length"], "NAME=VALUE"),
        (["s.parquet", "--sft", "learning_rate=1"], "learning_rate"),
        (["s.parquet", "--dataset", "x"], "--dataset"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str],
    found: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code, told, err = run(model, data, *words, capsys=capsys)
    except SystemExit as ended:
        code, told, err = int(ended.code or 0), "", capsys.readouterr().err
    assert code == 2 and found in err and told == ""
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]
