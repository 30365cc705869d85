"""The text of all runs: the Brown corpus and a sample of Wikipedia, and passages held out of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / ".cache" / "assets"
CACHE = ROOT / ".cache" / "experiments" / "inheritance"
CELLS = ROOT / "experiments" / "cells" / "inheritance"
"""What was measured, a file a cell, kept with the code: other machines go on from there."""
SMOLLM2 = ASSETS / "SmolLM2-135M-Instruct"
CORPORA = ("brown", "wikipedia-sample")


def texts(part: str) -> Iterator[str]:
    """The texts of `train` or `held_out`."""
    for corpus in CORPORA:
        lines = (ASSETS / corpus / f"{part}.jsonl").read_text("utf-8").splitlines()
        yield from (json.loads(line)["text"] for line in lines)


def training_file() -> Path:
    """All texts to train on, one a line."""
    return _written(CACHE / "train.jsonl", texts("train"))


def held_out_file(passage_bytes: int) -> Path:
    """One passage of each held-out text: short ones of many texts tell more than long ones of few.

    Args:
        passage_bytes: their length at most, in UTF-8.
    """
    found = (middle(text, passage_bytes) for text in texts("held_out"))
    return _written(CACHE / f"held_out-{passage_bytes}.jsonl", found)


def middle(text: str, size: int) -> str:
    """So many bytes from the middle of a text on, beginning with a whole word."""
    begin = text.find(" ", len(text) // 2) + 1
    return text[begin : begin + size].encode()[:size].decode(errors="ignore")


def _written(path: Path, found: Iterator[str]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
        part.rename(path)
    return path
