"""`bequest score` in processes of its own: a real model, two processes, an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bequest.weighting.score_file import read_scores
from training.tiny_sft import FORMS, save_model, write_json_lines
from zoo.command import command_line, environment, run

WORD_PROBLEMS = [
    {
        "prompt": f"Tom has {boxes} boxes with {each} apples each. How many apples has he?\n",
        "completion": f"Tom has {boxes} * {each} = {boxes * each} apples. #### {boxes * each}",
    }
    for boxes, each in [(3, 4), (12, 5), (7, 9), (31, 2), (8, 8), (15, 6)]
]
NONSENSE = {"prompt": "Say something odd.\n", "completion": "kj owl zq 77 tram yy vx owl owl kj"}
TOO_LONG = {"prompt": "on and on " * 200, "completion": "lost"}


def dense_loss(model: Any, tokenizer: Any, row: dict[str, str]) -> float:
    """The mean loss of a completion, as one would write it by hand."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    nats = [-log_p[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))]
    return float(np.mean(nats))


@pytest.mark.assets
def test_a_real_model_finds_nonsense_hard(smollm2_folder: Path, tmp_path: Path) -> None:
    rows = [*WORD_PROBLEMS, NONSENSE, TOO_LONG]
    data, out = write_json_lines(tmp_path / "d.jsonl", rows), tmp_path / "s.parquet"
    done = run("score", smollm2_folder, data, out, "--max-length", 128, "--tokens")
    assert done.code == 0, done
    assert "Traceback" not in done.stderr
    scores = read_scores(out)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    wanted = [dense_loss(model, tokenizer, row) for row in rows[:-1]]
    np.testing.assert_allclose(scores.loss[:-1], wanted, rtol=1e-4)
    assert np.isnan(scores.loss[-1]) and scores.weight[-1] == 0
    assert int(np.nanargmax(scores.loss)) == len(WORD_PROBLEMS)
    tau = np.median(np.array(wanted))
    np.testing.assert_allclose(scores.weight[:-1], np.exp(-np.array(wanted) / tau), rtol=1e-3)
    assert "owl" in done.stdout and "count like" in done.stdout


def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    data = write_json_lines(tmp_path / "d.jsonl", FORMS["conversational"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = Path(__file__).with_name("score_worker.py")
    words = [str(worker), "score", str(model), str(data), str(tmp_path / "two.parquet")]
    two = subprocess.run(
        [*command, *words, "--tokens-per-batch", "1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert two.returncode == 0, two.stderr[-4000:]
    assert two.stdout.count("two.parquet in") == 1
    one = run("score", model, data, tmp_path / "one.parquet", "--tokens-per-batch", 1)
    assert one.code == 0, one
    first, second = read_scores(tmp_path / "one.parquet"), read_scores(tmp_path / "two.parquet")
    for name in ("index", "loss", "num_tokens", "row_hash", "weight"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["d.jsonl", "model", "one", "one.parquet", "two", "two.parquet"]


def test_an_interrupt_leaves_no_score_file_and_the_next_run_goes_on(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    data = write_json_lines(tmp_path / "d.jsonl", [{"text": "a b c " * 50}] * 1000)
    place = tmp_path / "place"
    place.mkdir()
    words = ["score", model, data, place / "s.parquet", "--tokens-per-batch", 512]
    started = subprocess.Popen(
        command_line(*words),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and started.poll() is None:
        if any(file.stat().st_size > 2000 for file in place.glob(".*/*")):
            break
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGINT)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 130, told
    assert "goes on from here" in told
    (spool,) = place.iterdir()
    assert spool.name.startswith(".s.parquet.spool-")
    done = run(*words)
    assert done.code == 0, done
    assert len(read_scores(place / "s.parquet")) == 1000
    assert sorted(path.name for path in place.iterdir()) == ["s", "s.parquet"]
