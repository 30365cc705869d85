"""The small files that `make demo` reads: cut texts, and questions with answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

TASKS = ("gsm_symbolic", "spell_backward", "family_relationships")
"""Generators of reasoning-gym, from long worked solutions to single words: samples that the model
finds easy and samples that it finds hard, for equal ones leave FLOW nothing to weigh."""
HELD_OUT_SEED = 1
TRAIN_SEED = 0
LONGEST = 600


def write_texts(source: Path, target: Path, *, count: int, size: int) -> None:
    """Write the first `size` bytes of the first `count` texts of a .jsonl file."""
    with source.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    rows = [{"text": text.encode()[:size].decode(errors="ignore")} for text in texts]
    _write(target, rows)


def write_questions(folder: Path, *, train: int, held_out: int) -> None:
    """Write samples to train on, to evaluate on, and the latter as plain text too."""
    asked: set[str] = set()
    for name, count, seed in (
        ("held_out", held_out, HELD_OUT_SEED),
        ("train", train, TRAIN_SEED),
    ):
        rows = questions(count, seed, asked)
        asked |= {row["prompt"] for row in rows}
        _write(folder / f"{name}.jsonl", rows)
        if name == "held_out":
            texts = [{"text": row["prompt"] + row["completion"]} for row in rows]
            _write(folder / "questions.jsonl", texts)


def questions(count: int, seed: int, without: Iterable[str] = ()) -> list[dict[str, str]]:
    """Generate prompts and completions, the tasks in turn; none of `without` is among them."""
    import reasoning_gym

    seen = set(without)
    found: list[dict[str, str]] = []
    generators = [
        iter(reasoning_gym.create_dataset(task, size=20 * count + 100, seed=seed)) for task in TASKS
    ]
    while len(found) < count:
        for rows in generators:
            row = next(
                row
                for row in rows
                if row["question"] not in seen and len(row["question"]) < LONGEST
            )
            seen.add(row["question"])
            answer = row["metadata"].get("answer_cot") or row["answer"]
            found.append({"prompt": f"{row['question']}\n", "completion": answer.strip()})
    return found[:count]


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
