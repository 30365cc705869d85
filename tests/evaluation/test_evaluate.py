"""Whole evaluations of tiny models: what is computed, what is kept, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

import bequest
from bequest.cli.main import main
from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import bits_per_byte
from bequest.evaluation.models import LoadedModel, find_candidates
from bequest.evaluation.text_task import TextTask
from training.tiny_sft import save_model

TEXTS = [f"Document {n} says: " + "abc def " * (n % 7 + 1) + str(n * n) for n in range(20)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / f"model-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_documents_are_compared_as_by_hand(models: list[Path], texts: Path) -> None:
    found = bequest.evaluate(models[0], models[1], texts=texts)
    (one,) = found.comparisons
    assert (one.task, one.metric, one.num_items) == ("texts.jsonl", "bits per byte", 20)
    scores = []
    for folder in models[:2]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        alone = bits_per_byte(model, AutoTokenizer.from_pretrained(folder), TEXTS)
        scores.append(alone.bits_per_byte)
    assert [one.before, one.after] == pytest.approx(scores)
    assert one.difference == pytest.approx(scores[1] - scores[0])
    assert one.verdict in ("better", "worse")
    per_text = found.scores["texts.jsonl"][1].values * math.log(2)
    assert per_text == pytest.approx(alone.nats_per_text)


def test_what_is_there_is_not_computed_again(
    models: list[Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    original = TextTask.measure

    def counting(self: TextTask, model: LoadedModel, **options: Any) -> Any:
        measured.append(model.candidate.label)
        return original(self, model, **options)

    monkeypatch.setattr(TextTask, "measure", counting)
    out = tmp_path / "out"
    first = bequest.evaluate(models[0], models[1], texts=texts, out=out)
    assert measured == ["model-0", "model-1"]
    again = bequest.evaluate(models[0], models[1], texts=texts, out=out)
    assert len(measured) == 2 and again.comparisons == first.comparisons
    # A third model, in another place and under another name: only it is new.
    bequest.evaluate(f"old={models[0]}", models[1], models[2], texts=texts, out=out)
    assert measured[2:] == ["model-2"]
    # Other windows, other texts: other results.
    bequest.evaluate(models[0], models[1], texts=texts, out=out, overlap_bytes=0)
    assert len(measured) == 5
    bequest.evaluate(models[0], models[1], texts=texts, out=out, overwrite=True)
    assert len(measured) == 7
    # A damaged file is no result.
    kept = sorted((out / "items").rglob("*.jsonl"))[0]
    kept.write_text(kept.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    (
        bequest.evaluate(models[0], models[1], models[2], texts=texts, out=out),
        bequest.evaluate(models[0], models[1], texts=texts, out=out, overlap_bytes=0),
    )
    assert len(measured) == 8
    assert not list(out.rglob("*.unfinished")) and not list(out.rglob("*.tmp"))


def test_a_changed_model_in_the_same_place_is_another_model(
    models: list[Path], texts: Path, tmp_path: Path
) -> None:
    changing, out = save_model(tmp_path / "changing", seed=7), tmp_path / "out"
    first = bequest.evaluate(models[0], changing, texts=texts, out=out).comparisons[0]
    save_model(changing, seed=8)
    second = bequest.evaluate(models[0], changing, texts=texts, out=out).comparisons[0]
    assert first.before == second.before and first.after != second.after


def test_a_card_gets_its_own_model_s_scores(
    models: list[Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        bequest.evaluate(models[0], one, texts=texts, out=tmp_path / one.name) for one in models[1:]
    ]
    words = ["report", *(str(tmp_path / one.name) for one in models[1:]), "--overwrite", "--quiet"]
    words += ["--out", str(tmp_path / "report.html")]
    stranger = save_model(tmp_path / "stranger", seed=9)
    expected = {
        models[0]: found[0].comparisons[0].before,
        models[1]: found[0].comparisons[0].after,
        models[2]: found[1].comparisons[0].after,
    }
    for folder, score in expected.items():
        copied = shutil.copytree(folder, tmp_path / "copies" / folder.name)
        (copied / "README.md").write_text("# mine\n", encoding="utf-8")
        assert main([*words, "--card", str(copied)]) == 0
        card = ModelCard.load(copied / "README.md")
        (told,) = card.data.to_dict()["model-index"][0]["results"]
        assert told["metrics"][0]["value"] == pytest.approx(score)
        # A run that did not judge this model is no result of it.
        assert card.text.count("Found by") == (2 if folder == models[0] else 1)
    (stranger / "README.md").write_text("# mine\n", encoding="utf-8")
    (tmp_path / "report.html").unlink()
    assert main([*words, "--card", str(stranger)]) == 2
    told = capsys.readouterr().err
    assert "none of the runs' scores" in told and told.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
    assert (stranger / "README.md").read_text(encoding="utf-8") == "# mine\n"


def test_results_and_items_are_left(models: list[Path], texts: Path, tmp_path: Path) -> None:
    other = tmp_path / "more.jsonl"
    other.write_text("".join(json.dumps({"text": t[::-1]}) + "\n" for t in TEXTS), encoding="utf-8")
    out = tmp_path / "out"
    found = bequest.evaluate(
        models[0], models[1], texts=[texts, other], out=out, target=("texts.jsonl",), resamples=200
    )
    left = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(s["title"], s["type"]) for s in left["sections"]] == [
        ("Gains and losses", "table"),
        ("Gains by task", "scatter"),
        ("Target against forgetting", "scatter"),
        ("Models", "table"),
        ("Cost", "table"),
        ("Settings, versions, cost", "table"),
    ]
    data = {section["title"]: section["data"] for section in left["sections"]}
    table, figure = data["Gains and losses"], data["Target against forgetting"]
    # Fewer bits are a gain; the second task stands in the second row.
    (drawn,) = data["Gains by task"]["series"]
    assert data["Gains by task"]["y_ticks"] == ["texts.jsonl", "more.jsonl"]
    assert drawn["x"] == pytest.approx([-one.difference for one in found.comparisons])
    low, high = found.comparisons[1].interval or (0, 0)
    assert drawn["y"] == [0, 1] and drawn["x_interval"]["low"][1] == pytest.approx(-high)
    assert drawn["x_interval"]["high"][1] == pytest.approx(-low)
    told = {(kind, name): value for kind, name, value in data["Settings, versions, cost"]["rows"]}
    assert told["setting", "target"] == "texts.jsonl" and told["setting", "resamples"] == 200
    assert ("version", "torch") in told and told["cost", "items"] == 40
    assert told["cost", "seconds of this call"] > 0 and ("setting", "out") not in told
    cost = data["Cost"]["rows"]
    assert [row[:3] for row in cost[:2]] == [
        ["model-0", name, 20] for name in ("texts.jsonl", "more.jsonl")
    ]
    assert all(row[3] > 0 for row in cost)
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["difference"] == pytest.approx(found.comparisons[0].difference)
    assert row["verdict"] == found.comparisons[0].verdict
    points = {series["name"]: (series["x"], series["y"]) for series in figure["series"]}
    # Fewer bits are a gain.
    assert points["model-1"][1] == pytest.approx([-found.comparisons[0].difference])
    assert points["model-1"][0] == pytest.approx([-found.comparisons[1].difference])
    items = list((out / "items").rglob("*.jsonl"))
    assert len(items) == 4
    head, *rows = [json.loads(line) for line in items[0].read_text().splitlines()]
    assert head["num_items"] == len(rows) == 20
    assert {"id", "value", "size"} == rows[0].keys()


def test_models_of_one_label_are_runs(models: list[Path], texts: Path) -> None:
    found = bequest.evaluate(
        models[0], f"ours={models[1]}", f"ours={models[2]}", texts=texts, resamples=500
    )
    (one,) = found.comparisons
    assert (one.before_name, one.after_name, one.num_runs) == ("model-0", "ours", (1, 2))
    assert one.after == pytest.approx(np.mean([s.score for s in found.scores["texts.jsonl"][1:]]))
    assert any(section.title == "Every run" for section in found.sections)


def test_judged_models_against_one_another(models: list[Path], texts: Path) -> None:
    found = bequest.evaluate(*models, texts=texts, between=True, resamples=200)
    pairs = [(one.before_name, one.after_name) for one in found.comparisons]
    assert pairs == [("model-0", "model-1"), ("model-0", "model-2"), ("model-1", "model-2")]
    assert "against one another" in found.sections[1].title
    assert "all 3 comparisons" in found.notes[0]


def test_the_same_weights_are_identical(models: list[Path], texts: Path) -> None:
    (one,) = bequest.evaluate(models[0], f"again={models[0]}", texts=texts).comparisons
    assert (one.verdict, one.difference) == ("identical", 0.0)


def test_labels_tell_models_apart(models: list[Path], tmp_path: Path) -> None:
    twins = [save_model(tmp_path / run / "last") for run in ("a", "b")]
    found = find_candidates([str(twins[0]), str(twins[1]), f"x={models[0]}", str(models[1])])
    assert [one.label for one in found] == ["a/last", "b/last", "x", "model-1"]
    assert found[0].identity == found[1].identity != found[3].identity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name what to evaluate on"),
        ({"texts": ["none.jsonl"]}, r"none\.jsonl is no file"),
        ({"texts": "TEXTS", "target": ("t",)}, "'t' is none of the tasks"),
        ({"texts": "TEXTS", "target": ("texts.jsonl",)}, "every task"),
        ({"texts": "TEXTS", "target": "texts.jsonl"}, r"sequence of names.*\[target\]"),
        ({"texts": "TWICE"}, "two tasks are called"),
        ({"texts": "TEXTS", "dtype": "int8"}, "dtype"),
        ({"texts": "TEXTS", "limit": 0}, "limit"),
        ({"texts": "TEXTS", "batch_size": "many"}, "batch_size"),
        ({"texts": "TEXTS", "overlap_bytes": 5000}, "overlap_bytes"),
        ({"texts": "TEXTS", "alpha": 2.0}, "alpha"),
        ({"texts": "TEXTS", "limits": 1}, "limits is no option"),
        ({"tasks": "one"}, "sequence of names"),
    ],
)
def test_bad_requests_write_nothing(
    models: list[Path], texts: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    options = {**options}
    if options.get("texts") == "TEXTS":
        options["texts"] = texts
    if options.get("texts") == "TWICE":
        options["texts"] = [texts, texts]
    with pytest.raises(InputError, match=words):
        bequest.evaluate(models[0], models[1], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_bad_models_and_folders_are_named(models: list[Path], texts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for model, words in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "no file config.json"),
        (adapter, "is an adapter"),
        ("=x", "LABEL=MODEL"),
    ):
        with pytest.raises(InputError, match=words):
            bequest.evaluate(models[0], model, texts=texts)
    with pytest.raises(InputError, match="at least 2"):
        bequest.evaluate(models[0], texts=texts)
    with pytest.raises(InputError, match="are all called 'x'"):
        bequest.evaluate(f"x={models[0]}", f"x={models[1]}", texts=texts)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match="holds other files"):
            bequest.evaluate(models[0], models[1], texts=texts, out=foreign, **options)
