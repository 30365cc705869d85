"""Averages along a run and searches: against averages made one by one, and what is read and left."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from averaging import runs
from bequest.averaging import candidates, streaming
from bequest.averaging.average import plan_average
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.build import build
from bequest.averaging.coefficients import coefficient_vector
from bequest.averaging.search import plan_search, search
from bequest.averaging.sliding import plan_slide, slide
from bequest.checkpoints.lineage import read_lineage
from bequest.checkpoints.lineage_check import verify_outputs
from bequest.checkpoints.pieces import OpenFiles, StoredTensor, read_elements
from bequest.errors import BequestError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_trainer_run(tmp_path_factory.mktemp("sliding") / "run")


def loss(folder: Path) -> float:
    """A loss that any folder that loads has: how far the weights are from the first step's."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    first = runs.model(100).state_dict()
    state = model.state_dict()
    return float(sum((state[k].double() - first[k].double()).square().sum() for k in first))


def exact_loss(steps: tuple[int, ...]) -> float:
    """The same, of an average made by hand."""
    exact = runs.exact_average(map(runs.state_of, steps), coefficient_vector("uniform", len(steps)))
    exact["lm_head.weight"] = exact["model.embed_tokens.weight"]
    first = runs.model(100).state_dict()
    return float(sum(np.square(exact[k] - first[k].double().numpy()).sum() for k in first))


def config(run: Path, out: Path, **fields: Any) -> AverageConfig:
    return AverageConfig(sources=(str(run),), out=str(out), **fields)


def test_kept_averages_are_those_made_one_by_one(run: Path, tmp_path: Path) -> None:
    made = slide(config(run, tmp_path / "out", window=2, spacing=200), evaluate=loss)
    assert made.steps == (300, 400, 500, 600)
    for end, raw, averaged in zip(made.steps, made.raw, made.averaged, strict=True):
        folder = tmp_path / "out" / f"step-{end}"
        steps = (end - 200, end)
        exact = runs.exact_average(map(runs.state_of, steps), (0.5, 0.5))
        runs.same_bits(runs.read(folder), exact, torch.float32)
        assert averaged == pytest.approx(exact_loss(steps), rel=1e-5)
        assert raw == pytest.approx(exact_loss((end,)), rel=1e-5)
        record = read_lineage(folder)
        assert record["settings"]["steps"] == list(steps)
        assert all(c.intact for c in verify_outputs(folder, record, full_hash=False))
    record = read_lineage(tmp_path / "out")
    assert record["settings"]["ends"] == [300, 400, 500, 600]
    assert len(record["inputs"]) == 6
    sections = json.loads((tmp_path / "out" / "results.json").read_text())["sections"]
    assert [section["type"] for section in sections] == ["table", "lines", "table"]
    assert [series["name"] for series in sections[1]["data"]["series"]] == ["raw", "averaged"]


@pytest.mark.parametrize("evaluate", [None, loss])
def test_each_checkpoint_is_read_once(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluate: Callable[[Path], float] | None,
) -> None:
    read: Counter[str] = Counter()

    def counting(tensor: StoredTensor, first: int, out: Any, files: OpenFiles) -> None:
        read[tensor.pieces[0].file.parent.name] += out.nbytes
        read_elements(tensor, first, out, files)

    monkeypatch.setattr(streaming, "read_elements", counting)
    slide(config(run, tmp_path / "out", window=3), evaluate=evaluate, keep=evaluate is None)
    size = sum(t.numel() * 4 for t in runs.state_of(100).values())
    assert read == {f"checkpoint-{step}": size for step in runs.STEPS}


@pytest.mark.parametrize("keep", [True, False])
def test_a_plan_says_what_is_then_read_and_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    asked = config(run, tmp_path / "out", window=2, spacing=200, end=500)
    planned = plan_slide(asked, evaluated=True, keep=keep)
    assert not list(tmp_path.iterdir())
    read = 0

    def counting(tensor: StoredTensor, first: int, out: Any, files: OpenFiles) -> None:
        nonlocal read
        read += out.nbytes
        read_elements(tensor, first, out, files)

    monkeypatch.setattr(streaming, "read_elements", counting)
    sizes: list[int] = []

    def sized(folder: Path) -> float:
        if folder.name.startswith("step-"):
            sizes.append((folder / "model.safetensors").stat().st_size)
        return 1.0

    made = slide(asked, evaluate=sized, keep=keep)
    assert [c.name for c in planned.candidates] == [f"step-{step}" for step in made.steps]
    rows = planned.sections()[0].data["rows"]
    assert [row[1] for row in rows] == [", ".join(map(str, steps)) for steps in made.members]
    assert planned.bytes_read == read
    assert (planned.written, planned.temporary) == ((sum(sizes), 0) if keep else (0, sum(sizes)))


def test_a_planned_search_names_its_trials(run: Path, tmp_path: Path) -> None:
    asked = config(run, tmp_path / "out", end=500)
    planned = plan_search(asked, windows=(1, 2, 3), spacings=(100, 200))
    assert not list(tmp_path.iterdir())
    found = search(asked, windows=(1, 2, 3), spacings=(100, 200), evaluate=loss)
    assert [c.name for c in planned.candidates] == [
        f"{trial.window.size}-{trial.window.spacing}" for trial in found.trials
    ]
    assert planned.written == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert planned.temporary == len(found.trials) * planned.written


def test_what_is_only_evaluated_leaves_no_weights(run: Path, tmp_path: Path) -> None:
    made = slide(config(run, tmp_path / "out", end=400, window=3), evaluate=loss, keep=False)
    assert made.steps == (300, 400)
    assert made.averaged == pytest.approx(
        [exact_loss((100, 200, 300)), exact_loss((200, 300, 400))], rel=1e-5
    )
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bequest.json", "out", "results.json"]


def test_checkpoints_without_a_configuration_are_evaluated_too(tmp_path: Path) -> None:
    runs.write_state_dicts(tmp_path / "run", lambda step: f"step{step}.pt", (100, 200, 300))
    runs.write_model(tmp_path / "base", 0)
    request = config(tmp_path / "run", tmp_path / "out", window=2)
    with pytest.raises(BequestError, match="without a config"):
        slide(request, evaluate=loss)
    request = config(
        tmp_path / "run", tmp_path / "out", window=2, config_from=str(tmp_path / "base")
    )
    made = slide(request, evaluate=loss)
    assert made.raw == pytest.approx([exact_loss((200,)), exact_loss((300,))], rel=1e-5)
    assert made.averaged == pytest.approx(
        [exact_loss((100, 200)), exact_loss((200, 300))], rel=1e-5
    )


def test_a_bad_checkpoint_is_left_out_of_every_average(run: Path, tmp_path: Path) -> None:
    broken = with_bad(tmp_path / "run", (100, 200, 300, 400), 300)
    with pytest.raises(BequestError, match=r"checkpoint-300: tensor 'model\.norm\.weight'"):
        slide(config(broken, tmp_path / "out", window=2))
    assert not (tmp_path / "out").exists()
    made = slide(config(broken, tmp_path / "out", window=2, skip_bad=True))
    assert (made.steps, made.members) == ((200, 400), ((100, 200), (400,)))


def with_bad(run: Path, steps: tuple[int, ...], *bad: int) -> Path:
    """A run, some of whose checkpoints hold a NaN."""
    runs.write_trainer_run(run, steps)
    for step in bad:
        file = run / f"checkpoint-{step}" / "model.safetensors"
        state = load_file(file)
        state["model.norm.weight"][0] = float("nan")
        save_file(state, file)
    return run


@pytest.mark.parametrize("room", ["for all", "for one"])
def test_what_is_only_evaluated_leaves_out_bad_checkpoints_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    if room == "for one":
        full = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1), rmtree=shutil.rmtree)
        monkeypatch.setattr(candidates, "shutil", full)
    broken = with_bad(tmp_path / "run", (100, 200, 300, 400), 300)
    asked = config(broken, tmp_path / "out", window=2, skip_bad=True)
    made = slide(asked, evaluate=loss, keep=False)
    assert (made.steps, made.members) == ((200, 400), ((100, 200), (400,)))
    assert made.averaged == pytest.approx([exact_loss((100, 200)), exact_loss((400,))], rel=1e-5)
    assert made.raw == pytest.approx([exact_loss((200,)), exact_loss((400,))], rel=1e-5)
    assert "No average ends at step 300, which holds NaN or Inf." in made.notes
    kept = slide(dataclasses.replace(asked, out=str(tmp_path / "kept")), evaluate=loss)
    assert (kept.members, kept.notes) == (made.members, made.notes)
    assert (kept.raw, kept.averaged) == (made.raw, made.averaged)


def test_a_search_tells_the_members_that_were_averaged(tmp_path: Path) -> None:
    broken = with_bad(tmp_path / "run", (100, 200, 300, 400), 300)
    asked = config(broken, tmp_path / "out", skip_bad=True)
    found = search(asked, windows=(1, 2, 3), spacings=(100,), evaluate=loss)
    assert [trial.steps for trial in found.trials] == [(400,), (400,), (200, 400)]
    assert [trial.window.size for trial in found.trials] == [1, 2, 3]
    for trial in found.trials:
        assert trial.loss == pytest.approx(exact_loss(trial.steps), rel=1e-5)


def test_when_every_average_ends_in_a_bad_checkpoint(tmp_path: Path) -> None:
    broken = with_bad(tmp_path / "run", (100, 200), 200)
    asked = config(broken, tmp_path / "out", window=2, skip_bad=True)
    alone = dataclasses.replace(asked, window=None)
    for attempt in (
        lambda: slide(asked),
        lambda: slide(asked, evaluate=loss, keep=False),
        lambda: search(alone, windows=(1, 2), evaluate=loss),
    ):
        with pytest.raises(BequestError, match="every average would end"):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_bad_members_are_both_told(tmp_path: Path) -> None:
    broken = with_bad(tmp_path / "run", (100, 200, 300), 100, 200)
    (broken / "checkpoint-400").mkdir()
    asked = config(broken, tmp_path / "out", window=3, skip_bad=True)
    notes = " ".join(build(plan_average(asked)).notes)
    for said in ("checkpoint-100: tensor", "checkpoint-200: tensor", "checkpoint-400 was left out"):
        assert said in notes


def test_a_search_finds_the_lowest_loss(run: Path, tmp_path: Path) -> None:
    found = search(
        config(run, tmp_path / "out"), windows=(1, 2, 3, 4, 9), spacings=(100, 200), evaluate=loss
    )
    windows = {
        (1, 100): (600,),
        (2, 100): (500, 600),
        (2, 200): (400, 600),
        (3, 100): (400, 500, 600),
        (3, 200): (200, 400, 600),
        (4, 100): (300, 400, 500, 600),
    }
    assert {(t.window.size, t.window.spacing): t.steps for t in found.trials} == windows
    for trial in found.trials:
        assert trial.loss == pytest.approx(exact_loss(trial.steps), rel=1e-5)
    best = min(windows.values(), key=exact_loss)
    assert found.best.steps == best
    exact = runs.exact_average(map(runs.state_of, best), coefficient_vector("uniform", len(best)))
    runs.same_bits(runs.read(tmp_path / "out"), exact, torch.float32)
    sections = json.loads((tmp_path / "out" / "results.json").read_text())["sections"]
    assert [s["type"] for s in sections] == ["table", "table", "table", "heatmap", "table"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_search_without_choices_tries_doubled_distances(run: Path, tmp_path: Path) -> None:
    found = search(config(run, tmp_path / "out"), evaluate=loss)
    tried = {(trial.window.size, trial.window.spacing) for trial in found.trials}
    assert tried == {(1, 100), (2, 100), (2, 200), (2, 400), (3, 100), (3, 200), (5, 100)}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_never_wins(run: Path, tmp_path: Path, broken: float) -> None:
    calls: list[Path] = []

    def first_breaks(folder: Path) -> float:
        calls.append(folder)
        return broken if len(calls) == 1 else loss(folder)

    found = search(
        config(run, tmp_path / "out"), windows=(1, 2, 3), spacings=(100,), evaluate=first_breaks
    )
    assert not math.isfinite(found.trials[0].loss)
    assert found.best.loss == min(trial.loss for trial in found.trials[1:])
    sections = json.loads((tmp_path / "out" / "results.json").read_text())["sections"]
    table, figure = sections[-3:-1]
    assert table["data"]["rows"][-1][-1] == "not finite" and figure["data"]["values"][0] == [None]
    calls.clear()
    made = slide(config(run, tmp_path / "slid", window=2), evaluate=first_breaks)
    assert sum(map(math.isfinite, [*made.raw, *made.averaged])) == len(calls) - 1
    with pytest.raises(BequestError, match="no average whose loss is finite"):
        search(config(run, tmp_path / "none"), windows=(1, 2), evaluate=lambda _: broken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "slid"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"window": 9}, "no whole window of 9"),
        ({"window": 2, "spacing": 70}, "no whole window of 2 with spacing 70"),
        ({"end": 50}, "no whole window"),
        ({"repo": "a/b"}, "one run's folder"),
    ],
)
def test_sliding_refuses(run: Path, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BequestError, match=said):
        slide(config(run, tmp_path / "out", **fields))
    assert not list(tmp_path.iterdir())


def test_averages_nobody_wants_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BequestError, match="texts is missing"):
        slide(config(run, tmp_path / "out"), keep=False)


@pytest.mark.parametrize(
    ("fields", "options", "said"),
    [
        ({"window": 2}, {}, "what is searched for"),
        ({"end": 150}, {}, "end is 150"),
        ({}, {"windows": (9,)}, "no window of 9"),
        ({}, {"spacings": (70,), "windows": (2,)}, "no window of 2"),
        ({}, {"windows": (0,)}, "window is 0"),
    ],
)
def test_search_refuses(
    run: Path, tmp_path: Path, fields: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BequestError, match=said):
        search(config(run, tmp_path / "out", **fields), evaluate=loss, **options)
    assert not list(tmp_path.iterdir())


class BrokenError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("manner", ["kept", "discarded", "search"])
def test_a_broken_off_evaluation_goes_on(run: Path, tmp_path: Path, manner: str) -> None:
    def go(evaluate: Callable[[Path], float], evaluation: str | None) -> object:
        asked = config(run, tmp_path / "out", **({} if manner == "search" else {"window": 2}))
        if manner == "search":
            found = search(asked, windows=(1, 2, 3), evaluate=evaluate, evaluation=evaluation)
            return found.trials, found.best
        kept = manner == "kept"
        made = slide(asked, evaluate=evaluate, evaluation=evaluation, keep=kept)
        return made.raw, made.averaged

    calls: list[Path] = []

    def counted(folder: Path) -> float:
        if len(calls) == 3:
            raise BrokenError
        calls.append(folder)
        return loss(folder)

    for _ in range(2):  # without a name of the text nothing is remembered
        calls.clear()
        with pytest.raises(BrokenError):
            go(counted, None)
        assert list(tmp_path.iterdir()) == []
    calls.clear()
    with pytest.raises(BrokenError):
        go(counted, "text")
    with (tmp_path / ".out.losses.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    again: list[Path] = []

    def rest(folder: Path) -> float:
        again.append(folder)
        return loss(folder)

    resumed = go(rest, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    shutil.rmtree(tmp_path / "out")
    once = len(again) + 3
    again.clear()
    assert go(rest, "other text") == resumed
    assert len(again) == once
