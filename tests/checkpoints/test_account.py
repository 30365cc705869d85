"""The section of settings, versions and cost that every command's results end with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bequest.checkpoints.account import account


@dataclass(frozen=True, kw_only=True)
class Method:
    l2: float = 0.0
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str
    out: str = "out"
    overwrite: bool = False
    method: Method = field(default_factory=Method)
    training: dict[str, Any] = field(default_factory=dict)


def told(settings: Any, **counts: Any) -> dict[tuple[str, str], Any]:
    section = account(settings, **counts)
    return {(kind, name): value for kind, name, value in section.data["rows"]}


def test_what_was_given_is_told_by_its_dotted_name() -> None:
    config = Config(
        model="m", out="x", method=Method(blocks=(0, 1)), training={"lr": 0.1, "optim": None}
    )
    rows = told(config, seconds=1.23456, tokens=10, samples=None)
    assert {row: value for row, value in rows.items() if row[0] != "version"} == {
        ("setting", "model"): "m",
        ("setting", "method.blocks"): "0 1",
        ("setting", "training.lr"): 0.1,
        ("setting", "training.optim"): None,
        ("cost", "seconds of this call"): 1.235,
        ("cost", "tokens"): 10,
    }
    assert ("version", "bequest") in rows


def test_any_mapping_fits_and_nothing_is_made_up() -> None:
    rows = told({"limit": float("inf"), "at": {1: ["a", None]}})
    assert rows["setting", "limit"] == "inf" and rows["setting", "at.1"] == "a None"
    assert not any(kind == "cost" for kind, _ in rows)
