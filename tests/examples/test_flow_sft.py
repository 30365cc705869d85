"""The example trains from files, padded and packed, and leaves a model that loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import bequest
from tests.training.sft_runs import tiny_model, tokenizer

SCRIPT = Path(__file__).parents[2] / "examples" / "flow_sft.py"


@pytest.mark.parametrize("packing", [False, True])
def test_the_one_word_changed(tmp_path: Path, packing: bool) -> None:
    start, data, out = (str(tmp_path / name) for name in ("start", "data.jsonl", "out"))
    tiny_model().save_pretrained(start)
    tokenizer().save_pretrained(start)
    rows = [{"prompt": f"w{3 + i} w9", "completion": f" w{20 + i} w{30 + i}"} for i in range(12)]
    Path(data).write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, str(SCRIPT), "--model", start, "--data", data, "--out", out]
    done = subprocess.run(
        [*command, "--steps", "2", *(["--packing"] if packing else [])],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
            "ACCELERATE_USE_CPU": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    trained = AutoModelForCausalLM.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(start)
    assert not trained.lm_head.weight.equal(before.lm_head.weight)
    assert AutoTokenizer.from_pretrained(out).decode([20]) == "w20"
