"""`bequest evaluate` in processes of its own: several at once, an interrupt, real models."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bequest
from training.tiny_images import write_model, write_parquet
from training.tiny_sft import save_model
from zoo.command import command_line, environment, run


def write_texts(path: Path, count: int) -> Path:
    rows = [json.dumps({"text": f"text {n} of many, " * (n % 5 + 3)}) for n in range(count)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def items_of(out: Path) -> dict[str, list[tuple[float, float]]]:
    """Values and sizes by the file's place in the output."""
    found = {}
    for path in sorted((out / "items").rglob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        found[str(path.relative_to(out))] = [(row["value"], row["size"]) for row in rows]
    return found


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    models = [save_model(tmp_path / f"model-{seed}", seed=seed) for seed in range(2)]
    texts = write_texts(tmp_path / "t.jsonl", 25)
    words = ["evaluate", *models, "--texts", texts, "--tokens-per-batch", 256]
    if importlib.util.find_spec("lm_eval") and importlib.util.find_spec("reasoning_gym"):
        questions = tmp_path / "q.jsonl"
        rows = [
            {"question": f"After {n}?", "choices": [str(n), str(n + 1)], "answer": 1}
            for n in range(9)
        ]
        questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        words += ["--tasks", questions, "--generate", "chain_sum", "--generate-size", 5]
        words += ["--max-new-tokens", 4]
    assert run(*words, "--out", tmp_path / "one").code == 0
    two = run_two_processes(*words, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("results to compute") == 1
    assert not list((tmp_path / "two").rglob("*.unfinished"))
    assert items_of(tmp_path / "two") == items_of(tmp_path / "one")


def test_two_processes_share_images(tmp_path: Path) -> None:
    models = [write_model(tmp_path / kind, kind, 3) for kind in ("vit", "resnet")]
    images = write_parquet(tmp_path / "images.parquet", 23, seed=1)
    bequest.evaluate(*models, images=[str(images)], batch_size="4", out=tmp_path / "one")
    words = ["evaluate", *models, "--images", images, "--batch-size", 4]
    two = run_two_processes(*words, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    found = items_of(tmp_path / "two")
    assert found == items_of(tmp_path / "one")
    assert {value for rows in found.values() for value, _ in rows} == {0.0, 1.0}


def run_two_processes(*words: object) -> subprocess.CompletedProcess[str]:
    worker = Path(__file__).with_name("score_worker.py")
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*started, str(worker), *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    models = [save_model(tmp_path / f"model-{seed}", seed=seed) for seed in range(2)]
    texts, out = write_texts(tmp_path / "t.jsonl", 1500), tmp_path / "out"
    words = ["evaluate", *models, "--texts", texts, "--out", out, "--tokens-per-batch", 512]
    started = subprocess.Popen(
        command_line(*words),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and started.poll() is None:
        if any(file.stat().st_size > 5000 for file in out.rglob("*.losses")):
            break
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGINT)
    _, told = started.communicate(timeout=100)
    assert started.returncode == 130, told
    assert told.count("\n") == 1 and "goes on from here" in told
    assert not (out / "results.json").exists()
    (half,) = out.rglob("*.losses")
    kept = half.stat().st_size
    assert kept > 5000
    done = run(*words)
    assert done.code == 0, done
    assert not list(out.rglob("*.losses")) and (out / "results.json").exists()
    assert [len(rows) for rows in items_of(out).values()] == [1500, 1500]


@pytest.mark.assets
@pytest.mark.slow
def test_a_cut_model_is_worse_and_says_so(
    smollm2_folder: Path, brown_folder: Path, tmp_path: Path
) -> None:
    cut, texts = tmp_path / "cut", tmp_path / "brown.jsonl"
    lines = (brown_folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    texts.write_text(
        "".join(json.dumps({"text": json.loads(line)["text"][:400]}) + "\n" for line in lines),
        encoding="utf-8",
    )
    assert run("inherit", smollm2_folder, cut, "--layers", 15).code == 0
    done = run("evaluate", smollm2_folder, cut, "--texts", texts, "--out", tmp_path / "out")
    assert done.code == 0, done
    (table, *_) = json.loads((tmp_path / "out" / "results.json").read_text())["sections"]
    row = dict(zip(table["data"]["columns"], table["data"]["rows"][0], strict=True))
    assert row["verdict"] == "worse"
    assert 0.8 < row["score before"] < 1.8 < row["score after"]
