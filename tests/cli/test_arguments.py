"""What command lines make of our configurations: their defaults, switches and flags into mappings."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from bequest.cli.arguments import build_parser, to_config
from bequest.cli.main import COMMANDS
from bequest.cli.run_arguments import parse_run
from bequest.errors import InputError
from bequest.training.finetune_config import DataConfig, FinetuneConfig
from bequest.training.inheritune_config import InherituneConfig
from bequest.training.pretrain_config import PretrainConfig

AVERAGES = {"lawa": {"window": 20, "spacing": 100}, "ema": {"beta": 0.9}}
TRAINING = {"learning_rate": 1e-3, "max_steps": 5}


def configs() -> list[Any]:
    """Every configuration of a command, with the function that parses it."""
    found = []
    for name in (*COMMANDS, "finetune_images"):
        module = importlib.import_module(f"bequest.cli.{name}")
        parses = parse_nested if hasattr(module, "parse_run") else parse
        own = [
            value
            for key, value in vars(module).items()
            if key.endswith("Config") and dataclasses.is_dataclass(value)
        ]
        assert own, name
        found += [pytest.param(one, parses, id=f"{name}-{one.__name__}") for one in own]
    return found


def parse(config_class: type[Any], *words: str) -> Any:
    parser = build_parser(config_class, prog="bequest", description="A test.")
    return to_config(config_class, parser.parse_args(list(words)))


def parse_nested(config_class: type[Any], *words: str) -> Any:
    return parse_run(config_class, words, prog="bequest", description="A test.").config


def required(config_class: type[Any]) -> dict[str, Any]:
    """A value for each field that has no default."""
    types = typing.get_type_hints(config_class)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.default is field.default_factory is dataclasses.MISSING:
            kind = types[field.name]
            if dataclasses.is_dataclass(kind):
                values[field.name] = required(kind)  # type: ignore[arg-type]
            else:
                plain = typing.get_origin(kind) or kind
                values[field.name] = {dict: {"a": 1}, tuple: ["a"], int: 3}.get(plain, "a")
    return values


def made(config_class: type[Any], values: dict[str, Any]) -> Any:
    """The configuration as a program makes it."""
    types = typing.get_type_hints(config_class)
    given = {
        name: made(types[name], value) if dataclasses.is_dataclass(types[name]) else value
        for name, value in values.items()
    }
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return config_class(**given | lists)


@pytest.mark.parametrize(("config_class", "parses"), configs())
def test_defaults_are_the_dataclasss(config_class: type[Any], parses: Any, tmp_path: Path) -> None:
    values = required(config_class)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert parses(config_class, "--config", str(tmp_path / "run.yaml")) == made(
        config_class, values
    )


def test_a_switch_can_be_turned_off_where_it_is_on(tmp_path: Path) -> None:
    words = ["--out", "o", "--data", "d"]
    assert parse(PretrainConfig, *words).fused_loss is True
    assert parse(PretrainConfig, *words, "--no-fused-loss").fused_loss is False
    assert parse(PretrainConfig, *words, "--overwrite").overwrite is True
    (tmp_path / "run.yaml").write_text("fused_loss: false\n")
    words += ["--config", str(tmp_path / "run.yaml")]
    assert parse(PretrainConfig, *words).fused_loss is False
    assert parse(PretrainConfig, *words, "--fused-loss").fused_loss is True


@pytest.mark.parametrize("parses", [parse, parse_nested])
@pytest.mark.parametrize("first", [True, False])
def test_a_flag_into_a_mapping_keeps_its_siblings(parses: Any, first: bool, tmp_path: Path) -> None:
    config_class = PretrainConfig if parses is parse else FinetuneConfig
    data = "d" if parses is parse else {"train": "d"}
    given = {"out": "o", "model": "m", "data": data, "averages": AVERAGES, "training": TRAINING}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    file = ["--config", str(tmp_path / "run.yaml")]
    flags = ["--averages.lawa.spacing", "5", "--averages.wide.kind=lawa"]
    flags += ["--averages.wide.spacing", "7", "--training.max_steps", "-1"]
    flags += ["--training.weight_decay", "1e-2", "--training.a.b.c", "{d: false}"]
    made = parses(config_class, *(flags + file if first else file + flags))
    assert made.averages == {
        "lawa": {"window": 20, "spacing": 5},
        "ema": {"beta": 0.9},
        "wide": {"kind": "lawa", "spacing": 7},
    }
    assert made.training == {
        "learning_rate": 1e-3,
        "max_steps": -1,
        "weight_decay": 0.01,
        "a": {"b": {"c": {"d": False}}},
    }
    assert made.data in ("d", DataConfig(train="d"))
    with pytest.raises(InputError, match=r"averages\.ema\.beta, which is 0\.9"):
        parses(config_class, *file, "--averages.ema.beta.x", "1")


def test_flags_into_a_mapping_of_mappings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain = {"data": "d", "averages": AVERAGES, "training": TRAINING}
    given = {"reference": "r", "out": "o", "pretrain": pretrain}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    words = ["--config", str(tmp_path / "run.yaml"), "--pretrain.training.max_steps", "7"]
    words += ["--pretrain.averages.lawa.spacing=7"]
    expected = {
        "data": "d",
        "averages": {"lawa": {"window": 20, "spacing": 7}, "ema": {"beta": 0.9}},
        "training": {"learning_rate": 1e-3, "max_steps": 7},
    }
    assert parse(InherituneConfig, *words).pretrain == expected
    with pytest.raises(SystemExit):
        parse(InherituneConfig, *words, "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["pretrain"] == expected
    with pytest.raises(SystemExit):
        parse(InherituneConfig, *words, "--pretrain.training.max_steps")
    assert "expected one argument" in capsys.readouterr().err
