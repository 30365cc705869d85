"""Two models on one task: `bequest evaluate` against lm-eval alone, in turn.

`python -m benchmarks.evaluate` takes SmolLM2-135M and its first 15 blocks, and makes a task of
the Brown corpus: which of four lines goes on from here. lm-eval alone is its own command, once a
model, with the same settings. bequest also compares the models; lm-eval alone does not.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
from pathlib import Path

from benchmarks.harness import (
    BEQUEST,
    ROOT,
    SCRATCH,
    BenchmarkError,
    Contender,
    Measurement,
    run_in_turn,
)
from benchmarks.page import provenance, usage, write_section
from bequest.evaluation.local_data import write_task
from bequest.inheritance.inherit import inherit

ASSETS = ROOT / ".cache" / "assets"
WHOLE = ASSETS / "SmolLM2-135M-Instruct"
OURS, ALONE = "bequest evaluate", "lm-eval alone, once a model"
_READ, _GUESSED = 300, 60
"""Characters of a question, and of each choice."""


def write_questions(path: Path, count: int) -> None:
    """Write multiple-choice questions made of held-out Brown texts."""
    lines = (ASSETS / "brown" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    chosen = random.Random(0)

    def piece(length: int) -> str:
        text = chosen.choice(texts)
        start = text.index(" ", chosen.randrange(len(text) - length - 100)) + 1
        return str(text[start : start + length])

    rows = []
    for _ in range(count):
        together = piece(_READ + _GUESSED)
        choices = [together[_READ:], *(piece(_GUESSED) for _ in range(3))]
        right = choices[0]
        chosen.shuffle(choices)
        answer = choices.index(right)
        rows.append({"prompt": together[:_READ], "choices": choices, "answer": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lm_eval_command(model: Path, task: Path, out: Path, options: argparse.Namespace) -> str:
    """Return lm-eval's own command line for one model."""
    settings = f"pretrained={model},dtype={options.dtype},softmax_dtype=float32"
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", settings]
    words += ["--tasks", str(task), "--device", "cpu", "--batch_size", str(options.batch_size)]
    return shlex.join([*words, "--log_samples", "--output_path", str(out)])


def contenders(folder: Path, options: argparse.Namespace) -> list[Contender]:
    """Prepare models and task, and return both commands."""
    folder.mkdir(parents=True, exist_ok=True)
    cut, data = folder / "cut", folder / "goes_on.jsonl"
    inherit(WHOLE, cut, layers=15, overwrite=True)
    write_questions(data, options.items)
    task = write_task(data, folder / "tasks")
    ours, alone = folder / "ours", folder / "alone"
    command = [BEQUEST, "evaluate", str(WHOLE), str(cut), "--tasks", str(data), "--out", str(ours)]
    command += ["--dtype", options.dtype, "--batch-size", str(options.batch_size), "--quiet"]
    both = " && ".join(
        lm_eval_command(model, task, alone / model.name, options) for model in (WHOLE, cut)
    )

    def check() -> None:
        found, expected = scores_of_ours(ours), scores_of_lm_eval(alone, cut)
        if expected and found and found != expected:
            raise BenchmarkError(f"bequest found {found} and lm-eval {expected}")

    common = {"environment": {"HF_HUB_OFFLINE": "1"}, "reads": (WHOLE, cut), "check": check}
    return [
        Contender(name=OURS, command=tuple(command), writes=ours, **common),  # type: ignore[arg-type]
        Contender(name=ALONE, command=("bash", "-c", both), writes=alone, **common),  # type: ignore[arg-type]
    ]


def scores_of_ours(out: Path) -> list[float]:
    """Accuracy of the whole and of the cut model; nothing if it has not run."""
    if not (out / "results.json").exists():
        return []
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    data = document["sections"][0]["data"]
    row = dict(zip(data["columns"], data["rows"][0], strict=True))
    return [round(row["score before"], 6), round(row["score after"], 6)]


def scores_of_lm_eval(out: Path, cut: Path) -> list[float]:
    """The same of lm-eval's files."""
    found = []
    for name in (WHOLE.name, cut.name):
        for path in sorted((out / name).rglob("results_*.json")):
            results = json.loads(path.read_text(encoding="utf-8"))["results"]
            found.append(round(results["goes_on"]["acc,none"], 6))
    return found


def report(measured: dict[str, list[Measurement]], options: argparse.Namespace) -> str:
    """Return what was measured as Markdown."""
    return (
        f"{options.items} questions of 4 choices, {WHOLE.name} and its first 15 blocks, "
        f"{options.dtype}; both find the same accuracies.\n\n"
        f"{usage(measured)}\n"
        f"{provenance(packages=['torch', 'transformers', 'lm-eval'], folder=ROOT)}"
    )


def main() -> None:
    """Measure, print the table, and write it down if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    options = parser.parse_args()
    measured = run_in_turn(contenders(SCRATCH / "evaluate", options), repeats=options.repeats)
    body = report(measured, options)
    print(body)
    if not options.print:
        write_section("evaluate", "Evaluating two models", body)


if __name__ == "__main__":
    main()
