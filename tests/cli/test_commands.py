"""Commands as a user types them: what they print, what they leave, how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bequest.cli.main import COMMANDS, main
from zoo import keeper


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()  # What building a model of the zoo said is not the command's.
    try:
        code = main([str(word) for word in words])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inherit_grow_and_lineage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, student, grown = keeper.folder("llama"), tmp_path / "student", tmp_path / "grown"
    code, out, err = run("inherit", source, student, "--layers", 2, capsys=capsys)
    assert (code, err) == (0, "")
    assert "0-1 of the source" in out and "must be trained" in out
    code, out, _ = run("grow", student, source, grown, "--layers", 3, capsys=capsys)
    assert code == 0 and "0-2 of the teacher" in out
    code, out, _ = run("lineage", grown, capsys=capsys)
    assert code == 0
    assert "inherit" in out and "grow" in out and "files as they were written" in out
    (grown / "config.json").write_text("{}")
    code, out, _ = run("lineage", grown, capsys=capsys)
    assert code == 2 and "config.json" in out


def test_results_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        "inherit", keeper.folder("llama"), tmp_path / "out", "--layers", 1, "--json", capsys=capsys
    )
    printed = json.loads(out)
    left = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0 and printed == left
    assert ["layers", 4, 1] in printed["sections"][0]["data"]["rows"]


def test_quiet_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = keeper.folder("llama")
    assert run("inherit", source, tmp_path / "o", "--layers", 1, "--quiet", capsys=capsys) == (
        0,
        "",
        "",
    )


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = keeper.folder("llama")
    code, out, _ = run(
        "inherit", source, tmp_path / "out", "--layers", "0,2", "--dry-run", capsys=capsys
    )
    assert code == 0
    assert "dry run" in out and "model.safetensors" in out
    assert list(tmp_path.iterdir()) == []


def test_a_yaml_file_and_flags_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.yaml").write_text(
        f"source: {keeper.folder('llama')}\nout: {tmp_path / 'a'}\nlayers: 3\nreinit: [lm_head]\n"
    )
    config = tmp_path / "cut.yaml"
    assert run("inherit", "--config", config, "--quiet", capsys=capsys)[0] == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["num_hidden_layers"] == 3
    lineage = json.loads((tmp_path / "a" / "bequest.json").read_text())
    assert lineage["settings"]["reinitialized"] == ["lm_head.weight"]
    words = ["inherit", "--config", config, "--layers", "1-2", "--quiet"]
    assert run(*words, keeper.folder("llama"), tmp_path / "b", capsys=capsys)[0] == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text())["num_hidden_layers"] == 2


def test_unknown_keys_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.yaml").write_text("layer: 3\n")
    code, _, err = run("inherit", "--config", tmp_path / "cut.yaml", capsys=capsys)
    assert code == 2 and "layer" in err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["inherit"], "source is missing"),
        (["inherit", "a-folder", "out"], "layers is missing"),
        (["inherit", "./nowhere", "out", "--layers", "2"], "does not exist"),
        (["inherit", "a", "b", "--colour", "2"], "--colour"),
        (["grow", "a", "b", "c", "--layers", "two"], "two"),
        (["lineage", "./nowhere"], "does not exist"),
        (["inherited"], "no command"),
    ],
)
def test_wrong_use(words: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*words, capsys=capsys)
    assert code == 2 and found in err and out == ""


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for name in COMMANDS:
        assert f"  {name}" in out
    assert run(capsys=capsys)[0] == 2
