"""`make demo`, on a few texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), *map(str, options)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL
    )


@pytest.mark.assets
def test_the_demo_cuts_measures_and_says_where(
    tmp_path: Path, smollm2_folder: Path, brown_folder: Path
) -> None:
    ended = run("--out", tmp_path, "--texts", "2", "--layers", "3")
    assert ended.returncode == 0, ended.stderr
    student = tmp_path / "SmolLM2-3-layers"
    assert f"{student} --layers 3 --overwrite" in ended.stdout
    assert "A cut model must be trained" in ended.stdout
    assert str(tmp_path / "results.json") in ended.stdout

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = {row[0]: row[1:] for row in results["sections"][0]["data"]["rows"]}
    config = json.loads((smollm2_folder / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    block = 2 * hidden * (hidden + keys) + 3 * hidden * inner + 2 * hidden
    rest = config["vocab_size"] * hidden + hidden
    assert rows["layers"] == [30, 3]
    assert rows["parameters"] == [30 * block + rest, 3 * block + rest]
    weights = student / "model.safetensors"
    assert rows["bytes of weight files"][1] == weights.stat().st_size
    whole, cut = rows["bits per byte"]
    assert 0.8 < whole < 1.8 < cut


def test_too_few_texts_are_refused() -> None:
    ended = run("--texts", "1")
    assert ended.returncode == 2
    assert "--texts must be at least 2" in ended.stderr
