"""What a report is called: by its runs' names, or by what became of which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bequest.reporting.lineage_graph import lineage_graph
from bequest.reporting.runs import read_runs
from bequest.reporting.title import title_of
from reporting.samples import every_kind, lineage, write_run

Runs = list[tuple[str, str, dict[str, Any] | None]]
CUT = lineage("org/big")
DATA = {"role": "data.train", "name": "train.jsonl"}
DRAWN = {**lineage(operation="pretrain"), "inputs": [{"role": "data", "name": "train.jsonl"}]}
JUDGED: Runs = [(f"scores-{number}", "bequest evaluate a b", None) for number in range(4)]


def tuned(name: str, **start: Any) -> dict[str, Any]:
    """A fine-tuned model, whose data is no model that it began as."""
    record = lineage(name, operation="finetune", **start)
    record["inputs"][0]["role"] = "model"
    return {**record, "inputs": [DATA, *record["inputs"]]}


@pytest.mark.parametrize(
    ("runs", "title"),
    [
        ([("cut", "bequest inherit", CUT), *JUDGED[:2]], "cut, scores-0 and scores-1"),
        (JUDGED[:1], "scores-0"),
        # The model that all began as, through what was made of it, and each command once.
        (
            [
                ("cut", "/usr/bin/bequest inherit big cut", CUT),
                ("tuned", "bequest finetune --config c", tuned("cut", lineage=CUT)),
                *JUDGED,
            ],
            "big: inherit, finetune, evaluate",
        ),
        (
            [
                ("cut", "train.py", CUT),
                ("other", "bequest finetune", tuned("small")),
                *JUDGED,
            ],
            "big and small: inherit, finetune, evaluate",
        ),
        (
            [(f"of-{name}", "bequest finetune", tuned(name)) for name in "abcde"],
            "5 models: finetune",
        ),
        ([("drawn", "bequest pretrain", DRAWN), *JUDGED], "pretrain, evaluate"),
        ([(name, "analysis.py", None) for name in "abcde"], "5 results"),
    ],
)
def test_the_title(tmp_path: Path, runs: Runs, title: str) -> None:
    for name, command, record in runs:
        write_run(tmp_path / name, every_kind()[:1], command, record)
    read = read_runs([tmp_path / name for name, _, _ in runs])
    assert title_of(read, lineage_graph(read)) == title
