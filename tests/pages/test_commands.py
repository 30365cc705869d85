"""Every command line and every flag in README and docs is one that bequest knows."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bequest.cli import finetune_images
from bequest.cli.main import COMMANDS, main
from bequest.training import finetune_config, inheritune_config, pretrain_config, vision_config
from pages.blocks import ROOT, Block, Command, commands, inline_code, of_language, words_of

EXAMPLES = {
    name: ROOT / "examples" / f"{name}.yaml" for name in ("finetune", "inheritune", "pretrain")
}
CHECKS = {
    "pretrain": pretrain_config.check_config,
    "inheritune": inheritune_config.check_inheritune,
    "finetune": finetune_config.check_config,
    "images": vision_config.check_images,
}
OF_OTHERS = {"--nproc-per-node", "--no-python"}
"""Flags of torchrun."""


class StoppedError(Exception):
    """Ends a command once its command line is read."""


@pytest.fixture
def reads_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Commands stop when they have made their configuration, which is kept."""
    kept: list[Any] = []

    def stopping(made: Any) -> Any:
        def stop(*arguments: Any, **options: Any) -> Any:
            kept.append(made(*arguments, **options))
            raise StoppedError

        return stop

    modules = [importlib.import_module(f"bequest.cli.{name}") for name in COMMANDS]
    for module in [*modules, finetune_images]:
        for name in ("to_config", "parse_run"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stopping(getattr(module, name)))
    monkeypatch.setenv("BEQUEST_TRACEBACK", "1")
    yield kept


def read(words: list[str]) -> None:
    """Read a command line; what the parser or bequest refuses ends the test."""
    with contextlib.suppress(StoppedError, SystemExit):
        assert main(words) == 0


def config_of(name: str, folder: Path) -> Path:
    """A configuration file to stand for one that a page only names."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    file = folder / "stand-in.yaml"
    file.write_text("reference: big\nout: runs\npretrain: {data: texts.jsonl}\n")
    return file


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_line_is_read(
    command: Command, reads_only: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = list(command.words)
    for at, word in enumerate(words):
        if words[at - 1] == "--config":
            named = ROOT / word
            words[at] = str(named if named.exists() else config_of(words[0], tmp_path))
        # A number has a letter or a word in capitals for a name.
        elif words[at - 1] in ("--window", "--spacing") and word.isupper():
            words[at] = "2"
    read(words)
    # Help ends a command before there is a configuration.
    assert reads_only or "--help" in words, capsys.readouterr().err


def test_a_wrong_command_line_is_seen(
    reads_only: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    read(["inherit", "a", "b", "--laiers", "2"])
    assert not reads_only and "--laiers" in capsys.readouterr().err
    assert words_of("torchrun --nproc-per-node 2 --no-python bequest score M D O.parquet  # x") == (
        *("score", "M", "D", "O.parquet"),
    )
    assert words_of("$ ls") is None and len(commands()) > 40


@pytest.fixture(scope="session")
def options() -> set[str]:
    """Every option of every command."""
    found: set[str] = set()
    for name in COMMANDS:
        for extra in ([], ["--task", "image-classification"]) if name == "finetune" else ([],):
            printed = help_of(name, extra)
            found |= set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", printed))
    return found


def help_of(name: str, extra: list[str]) -> str:
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([name, *extra, "--help"])
    return printed.getvalue()


def test_every_flag_is_an_option(options: set[str]) -> None:
    unknown = {
        (place, flag)
        for place, code in inline_code()
        if not code.startswith(("python ", ".venv/bin/python "))
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code)
        # What a mapping holds is its library's to know.
        if flag not in options | OF_OTHERS and flag.partition(".")[0] not in options
    }
    assert not unknown


def filled(block: Block, folder: Path) -> tuple[str, Path]:
    """The command that a YAML block is for, and a file with it and what it leaves out."""
    import yaml

    given = yaml.safe_load(block.text)
    if given.get("task") == vision_config.TASK:
        kind, needed = "images", {"model": "m", "out": "o", "data": {"train": "t"}}
    elif "reference" in given:
        kind, needed = "inheritune", {"out": "o"}
    elif "method" in given or isinstance(given.get("data"), dict):
        kind, needed = "finetune", {"model": "m", "out": "o", "data": {"train": "t"}}
    else:
        kind, needed = "pretrain", {"model": "m", "out": "o", "data": "t"}
    file = folder / "block.yaml"
    missing = {name: value for name, value in needed.items() if name not in given}
    file.write_text(block.text + yaml.safe_dump(missing) if missing else block.text)
    return kind, file


@pytest.mark.parametrize("block", of_language("yaml"), ids=str)
def test_a_yaml_block_is_accepted(block: Block, reads_only: list[Any], tmp_path: Path) -> None:
    kind, file = filled(block, tmp_path)
    read(["finetune" if kind == "images" else kind, "--config", str(file)])
    (made,) = reads_only
    CHECKS[kind](getattr(made, "config", made))


def test_a_wrong_yaml_block_is_seen(reads_only: list[Any], tmp_path: Path) -> None:
    block = Block("page", 1, "yaml", "averages:\n  lawa: {windows: 5}\n")
    kind, file = filled(block, tmp_path)
    read([kind, "--config", str(file)])
    with pytest.raises(Exception, match="windows"):
        CHECKS[kind](reads_only[0])
    file.write_text("averages: {}\nmodle: x\nout: o\ndata: t\n")
    read([kind, "--config", str(file)])
    assert len(reads_only) == 1
