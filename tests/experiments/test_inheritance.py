"""The arithmetic of the inheritance experiment, and one cell of each start in miniature."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.inheritance import data, run, runs
from experiments.inheritance.__main__ import STUDIES, cells
from experiments.inheritance.report import compared, of_longer
from experiments.inheritance.run import Cell, Study
from experiments.inheritance.runs import Run, best_rate, gap, steps_to_reach

TOKENS = np.array([10, 20, 30, 40])


def test_gap_weighs_documents_by_their_tokens() -> None:
    others = [TOKENS * 3.0, TOKENS * 4.0]
    ours = [others[0] - 0.5 * TOKENS, others[1] - 0.5 * TOKENS]
    assert gap(ours, others, TOKENS) == pytest.approx((-0.5, -0.5, -0.5))
    ours[0] = others[0] - np.array([0.0, 0.0, 0.0, 40.0])
    mean, low, high = gap(ours, others, TOKENS)
    assert mean == pytest.approx(-(40 + 50) / 200)
    assert low < mean < high


def test_gap_knows_that_seeds_scatter() -> None:
    others = [TOKENS * 3.0] * 2
    alike = gap([TOKENS * 2.5] * 2, others, TOKENS)
    unlike = gap([TOKENS * 2.0, TOKENS * 3.0], others, TOKENS)
    assert alike[0] == pytest.approx(unlike[0])
    assert alike[2] - alike[1] < 1e-9 < 0.5 < unlike[2] - unlike[1]


@pytest.mark.parametrize(
    ("level", "step"), [(9.0, 0.0), (6.0, 25.0), (5.0, 40.0), (4.5, 50.0), (3.9, None)]
)
def test_steps_to_reach(level: float, step: float | None) -> None:
    found = steps_to_reach([0, 20, 40, 60], [9.0, 6.25, 5.0, 4.0], level)
    assert found == (None if step is None else pytest.approx(step, abs=1.0))


def run_of(start: str, rate: float, seed: int, ends: list[float]) -> Run:
    nats = np.array([TOKENS * loss for loss in ends])
    return Run(
        cell=Cell(study="smollm2", start=start, depth=8, rate=rate, seed=seed),
        steps=(0, 100, 120),
        nats={"raw": nats, "lawa": np.full_like(nats, np.nan)},
        tokens=TOKENS,
        parameters=1,
        seconds=1.0,
    )


def test_each_start_is_compared_at_its_own_best_rate() -> None:
    runs = [
        run_of("inherited", 1e-3, 0, [9.0, 6.0, 5.5]),
        run_of("inherited", 3e-3, 0, [9.0, 7.0, 6.5]),
        run_of("scratch", 1e-3, 0, [9.0, 8.0, 7.5]),
        run_of("scratch", 3e-3, 0, [9.0, 7.0, 6.0]),
        # A lower loss with another seed does not choose the rate.
        run_of("scratch", 1e-3, 1, [9.0, 5.0, 4.0]),
    ]
    assert best_rate(runs, "smollm2", "inherited", 8) == 1e-3
    assert best_rate(runs, "smollm2", "scratch", 8) == 3e-3
    row = compared(runs, "smollm2", STUDIES["smollm2"])[-1]
    assert "| 0.001, 0.003 | 1 |" in row
    assert "-0.500" in row
    assert row.endswith("| step 100 |")


def test_a_longer_trained_reference_is_compared_with_its_own_halves() -> None:
    ours = run_of("inherited", 1e-3, 0, [9.0, 6.0, 5.0])
    ours = replace(ours, cell=replace(ours.cell, reference_times=4))
    half = run_of("inherited", 1e-3, 0, [9.0, 6.0, 5.5])
    drawn = run_of("scratch", 1e-3, 0, [9.0, 6.0, 5.75])
    other_seed = run_of("scratch", 1e-3, 1, [9.0, 6.0, 1.0])
    long = run_of("reference", 1e-3, 0, [9.0, 6.0, 4.5])
    long = replace(long, cell=replace(long.cell, depth=16, times=4))
    assert of_longer([half, drawn, other_seed], "smollm2") == []
    rows = of_longer([ours, half, drawn, other_seed, long], "smollm2")[2:]
    assert [row.split("|")[2].split()[0] for row in rows] == ["+0.500", "-0.500", "-0.750"]


def test_cells_are_named_apart_and_measured_where_the_decay_begins() -> None:
    names = [cell.path.name for cell in cells()]
    assert len(set(names)) == len(names)
    for study in STUDIES.values():
        assert (study.steps - study.decay) % study.evaluate_every == 0
        assert study.warmup + study.decay < study.steps


def test_middle_begins_with_a_word_and_cuts_no_character() -> None:
    text = "first half of it " + "naïve " * 40
    passage = data.middle(text, 20)
    assert passage.startswith("naïve ")
    assert 17 <= len(passage.encode()) <= 20


def test_a_cell_of_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (data, run):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    for module in (data, run, runs):
        monkeypatch.setattr(module, "CELLS", tmp_path)
    rows = [json.dumps({"text": f"{n} is a number, and {n + 1} is next. " * 20}) for n in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:36]) + "\n")
    (tmp_path / "held_out-90.jsonl").write_text("\n".join(rows[36:]) + "\n")
    monkeypatch.setattr(data, "texts", lambda part: [json.loads(row)["text"] for row in rows])
    monkeypatch.setattr(run, "texts", data.texts)
    monkeypatch.setattr(run, "_diagnose", lambda reference, results: None)
    study = Study(
        depth=2,
        shape={**(STUDIES["small"].shape or {}), "hidden_size": 32, "num_hidden_layers": 2},
        vocab_size=290,
        steps=12,
        batch_size=2,
        block_length=32,
        warmup=2,
        decay=4,
        spacing=1,
        evaluate_every=4,
        passage_bytes=90,
    )
    for start, depth in (("reference", 2), ("inherited", 1), ("scratch", 1)):
        run.run(Cell(study="tiny", start=start, depth=depth, rate=1e-2, seed=0), study)
    found = {own.cell.start: own for own in runs.read_all()}
    assert {own.steps for own in found.values()} == {(0, 4, 8, 12)}
    for own in found.values():
        assert np.isfinite(own.curve("raw")).all()
        assert np.isnan(own.curve("lawa")).tolist() == [True, False, False, False]
    # What was inherited has learned something before its first step; what was drawn has not.
    assert found["inherited"].curve("raw")[0] < found["scratch"].curve("raw")[0] - 0.1
    assert found["scratch"].curve("raw")[0] == pytest.approx(np.log(290), abs=0.3)
    assert found["inherited"].parameters == found["scratch"].parameters
    # The reference is not only a file of losses: its halves are cut out of its folder.
    shutil.rmtree(run.reference_of("tiny"))
    assert not run.is_done(found["reference"].cell, study)
    assert run.is_done(found["scratch"].cell, study)
    before = found["inherited"].cell.path.stat().st_mtime_ns
    run.run(found["inherited"].cell, replace(study, steps=8))
    assert found["inherited"].cell.path.stat().st_mtime_ns == before
