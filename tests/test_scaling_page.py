"""The table of docs/scaling.md is what the formulas above it give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
SIZES = {"1B": 1e9, "8B": 8e9, "70B": 70e9}


def row(begin: str) -> list[float]:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {begin}")]
    return [float(cell) for cell in line.strip("|").split("|")[1:]]


def test_the_table_follows_from_the_formulas() -> None:
    assert "| | 1B | 8B | 70B |" in PAGE
    start, rate = map(float, re.findall(r"seconds = ([\d.]+) \+ P \* b / ([\d.e]+)", PAGE)[0])
    (numbers,) = map(float, re.findall(r"seconds = \(k \+ 1\) \* P / ([\d.e]+)", PAGE))
    for at, parameters in enumerate(SIZES.values()):
        assert row("cut, all")[at] == pytest.approx(2 * parameters / 1e9)
        assert row("cut: time")[at] == pytest.approx(start + 2 * parameters / rate, abs=0.5)
        assert row("average of 5")[at] == pytest.approx(6 * parameters / numbers, abs=0.5)
        assert row("LAWA live: host")[at] == pytest.approx(2 * parameters / 1e9)
        assert row("LAWA live: members")[at] == pytest.approx(5 * 4 * parameters / 1e9)
        assert row("EMA or SWA")[at] == pytest.approx(4 * parameters / 1e9)


def test_the_head_s_memory() -> None:
    classes, tokens = 128_256, 8_192
    for width, shown in ((2048, "1.6"), (4096, "3.2"), (8192, "6.4")):
        assert f"{0.067 + classes * width * 6 / 1e9:.1f}" == shown and f"{shown} GB" in PAGE
    assert f"{4 * tokens * classes / 1e9:.1f} GB for one copy" in PAGE
