"""`bequest evaluate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bequest.cli.main import main
from training.tiny_sft import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / f"model-{seed}", seed=seed) for seed in range(2)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n} " * 9}) + "\n" for n in range(12)))
    return path


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["evaluate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_says_what_changed(
    models: list[Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*models, "--texts", texts, "--out", tmp_path / "out"]
    code, told, err = run(*words, capsys=capsys)
    assert (code, err) == (0, "")
    for part in ("2 of 2 results to compute", "model-1: t.jsonl: bits per byte", "corrected p"):
        assert part in told
    code, told, _ = run(*words, capsys=capsys)
    assert code == 0 and "All results are there already" in told
    assert run(*words, "--quiet", capsys=capsys) == (0, "", "")
    code, told, _ = run(*words, "--json", capsys=capsys)
    left = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0 and json.loads(told) == left


def test_a_dry_run_counts_and_writes_nothing(
    models: list[Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = [*models, "--texts", texts, "--dry-run"]
    for out in ([], ["--out", tmp_path / "out"]):
        code, told, err = run(*words, *out, capsys=capsys)
        assert (code, err) == (0, "")
        assert "to compute" in told and "Nothing was written" in told
    code, told, _ = run(*words, "--json", capsys=capsys)
    assert json.loads(told)["sections"][0]["title"] == "Plan"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_configuration_file(
    models: list[Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "e.yaml"
    config.write_text(
        f"models: [{models[0]}, new={models[1]}]\ntexts: [{texts}]\nlimit: 5\n"
        f"out: {tmp_path / 'out'}\n"
    )
    code, told, err = run("--config", config, capsys=capsys)
    assert (code, err) == (0, "")
    assert "new: t.jsonl" in told
    (_, *rows) = next((tmp_path / "out").rglob("t.jsonl-*")).read_text().splitlines()
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["MODELS", "--texts", "TEXTS"], "out is missing"),
        (["MODELS", "--out", "OUT"], "name what to evaluate on"),
        (["nowhere/at/all", "MODELS", "--texts", "TEXTS", "--out", "OUT"], "does not exist"),
        (["MODELS", "--texts", "none.txt", "--out", "OUT"], "none.txt is no file"),
        (["--texts", "TEXTS", "--out", "OUT"], "at least 2"),
    ],
)
def test_bad_input_is_one_sentence(
    models: list[Path],
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    given: dict[str, list[object]] = {
        "MODELS": list(models),
        "TEXTS": [texts],
        "OUT": [tmp_path / "out"],
    }
    typed = [part for word in words for part in given.get(word, [word])]
    code, told, err = run(*typed, capsys=capsys)
    assert (code, told) == (2, "")
    assert sentence in err and err.startswith("bequest evaluate: error: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
