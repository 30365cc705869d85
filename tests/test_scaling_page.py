"""The tables of docs/scaling.md are what its formulas give, and their constants were measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
SIZES = {"1B": 1e9, "8B": 8e9, "70B": 70e9}


def row(begin: str) -> list[float]:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {begin}")]
    return [float(cell) for cell in line.strip("|").split("|")[1:] if cell.strip()]


def told(expression: str) -> float:
    """A number that stands once in the page."""
    (found,) = re.findall(expression, PAGE)
    return float(found)


def close(shown: float, exact: float) -> bool:
    """Whether a number is another one, rounded to an integer, or below 10 to a decimal."""
    return abs(shown - exact) <= (0.051 if exact < 9.95 else 0.51)


def test_the_tables_follow_from_the_formulas() -> None:
    start, rate = map(float, re.findall(r"seconds = ([\d.]+) \+ P \* b / ([\d.e]+)", PAGE)[0])
    single = told(r"float32: +seconds = \(k \+ 1\) \* P / ([\d.e]+)")
    half = told(r"bfloat16: +seconds = \(k \+ 1\) \* P / ([\d.e]+)")
    disk = told(r"R = ([\d.e]+), an assumption")
    share, peak = map(float, re.findall(r"F = ([\d.]+) \* ([\d.e]+) operations", PAGE)[0])
    flops = share * peak
    b = 2
    of: dict[str, Callable[[float], float]] = {
        "cut, all": lambda p: b * p / 1e9,
        "cut: time, files in": lambda p: start + b * p / rate,
        "cut: time, files read": lambda p: start + b * p / rate + b * p / disk,
        "average of 5, float32": lambda p: 6 * p / single,
        "average of 5, bfloat16: time (": lambda p: 6 * p / half,
        "average of 5, bfloat16: time to read": lambda p: 5 * b * p / disk,
        "LAWA live: host": lambda p: b * p / 1e9,
        "LAWA live: members": lambda p: 5 * 4 * p / 1e9,
        "EMA or SWA": lambda p: 4 * p / 1e9,
        "`score`: a": lambda p: b * p / 1e9,
        "`score`, 10": lambda p: 2 * p * 1e7 / flops,
        "`evaluate`: a": lambda p: b * p / 1e9,
        "`evaluate`, 2": lambda p: 2 * 2 * p * (1e7 / 4) / flops,
        "`pretrain`: w": lambda p: 16 * p / 1e9,
        "`pretrain`, 1": lambda p: 6 * p * 1e9 / flops / 3600,
        "`finetune`, all weights: ": lambda p: 16 * p / 1e9,
        "`finetune`, all weights, ": lambda p: (6 + 2) * p * 1e7 / flops / 60,
        "`finetune` with LoRA: ": lambda p: b * p / 1e9,
        "`finetune` with LoRA, ": lambda p: (4 + 2) * p * 1e7 / flops / 60,
        "`inheritune`: ": lambda p: 16 * p / 1e9,
        "`inheritune`, 3": lambda p: 3 * 6 * p * 1e8 / flops / 3600,
    }
    for begin, formula in of.items():
        for shown, size in zip(row(begin), SIZES.values(), strict=True):
            assert close(shown, formula(size)), (begin, shown, formula(size))
    # No row without a formula here.
    head = r"\| [^|]*\| 1B \| 8B \| 70B \|\n.*\n((?:\|.*\n)+)"
    assert sum(len(one.splitlines()) for one in re.findall(head, PAGE)) == len(of)


def test_the_constants_are_those_that_were_measured() -> None:
    """Of benchmarks/RESULTS.md, as the page rounds them."""
    cut = measured("inherit-synthetic", "`bequest inherit`")
    copied = float(re.findall(r"parameters, ([\d.]+) GB", section("inherit-synthetic"))[0]) * 1e9
    start, rate = map(float, re.findall(r"seconds = ([\d.]+) \+ P \* b / ([\d.e]+)", PAGE)[0])
    assert start + copied / rate == pytest.approx(cut, rel=0.02)
    for name, label in (("average-real", "float32"), ("average-random", "bfloat16")):
        (count,) = re.findall(r"together, of ([\d,]+) parameters", section(name))
        numbers = told(rf"{label}: +seconds = \(k \+ 1\) \* P / ([\d.e]+)")
        exact = 6 * float(count.replace(",", "")) / measured(name, "`bequest average`")
        assert numbers == pytest.approx(exact, rel=0.005)
    scored = measured("token-losses-bfloat16", "bequest")
    (tokens,) = re.findall(r"(\d+) in all", section("token-losses-bfloat16"))
    assert f"{float(tokens):,.0f} tokens with 134.5 million parameters in {scored} s" in PAGE
    (trained,) = re.findall(r"\| bequest pretrain \|.*?\| (\d+) \|", section("pretrain-135m"))
    assert f"{trained} tokens a second" in PAGE
    assert f"{2 * 134.5e6 * float(tokens) / scored / 1e12:.2f}e12" == "0.37e12"
    assert f"{6 * 134.5e6 * float(trained) / 1e12:.2f}e12" == "0.37e12" and "0.37e12" in PAGE


def section(name: str) -> str:
    """A part of benchmarks/RESULTS.md."""
    return RESULTS.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0]


def measured(name: str, way: str) -> float:
    """Seconds of one row of its table."""
    return float(re.findall(rf"\| {re.escape(way)} \| ([\d.]+) ", section(name))[0])


def test_the_head_s_memory() -> None:
    classes, tokens = 128_256, 8_192
    for width, shown in ((2048, "1.6"), (4096, "3.2"), (8192, "6.4")):
        assert f"{0.067 + classes * width * 6 / 1e9:.1f}" == shown and f"{shown} GB" in PAGE
    assert f"{4 * tokens * classes / 1e9:.1f} GB for one copy" in PAGE
