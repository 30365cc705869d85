"""`bequest.score` against dense float64 losses, broken off and taken up, and with bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM

import bequest
from bequest.errors import InputError
from bequest.losses import token_losses as engine
from bequest.training.sft_data import tokenize_samples
from bequest.weighting.score_file import read_scores, row_hash
from training.tiny_sft import FORMS, save_model, tokenizer_of_bytes, write_json_lines

ROWS = FORMS["prompt-completion"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def dense_losses(model: Path, ids: Any, labels: Any) -> list[float]:
    """The response tokens' losses, one sample at a time, from all logits in float64."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = loaded(input_ids=torch.tensor([ids.tolist()])).logits[0, :-1]
    wanted = torch.tensor(labels.tolist())[1:]
    found = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return found[wanted != -100].tolist()


CARD = """---
configs:
- config_name: few
  data_files: few.jsonl
- config_name: many
  data_files: many.jsonl
---
"""


def test_a_configuration_of_a_data_set(model: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    write_json_lines(tmp_path / "few.jsonl", ROWS[:1])
    write_json_lines(tmp_path / "many.jsonl", ROWS)
    for name, rows in (("few", 1), ("many", len(ROWS))):
        scores = bequest.score(model, tmp_path, data_name=name)
        assert len(scores) == rows and scores.metadata["data_name"] == name
    with pytest.raises(InputError, match="set data_name to one of few, many"):
        bequest.score(model, tmp_path)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "tokenized"])
def test_losses_are_those_of_a_dense_float64_pass(model: Path, form: str, tmp_path: Path) -> None:
    samples = Dataset.from_list(FORMS[form])
    out = tmp_path / "scores.parquet"
    scores = bequest.score(model, samples, out, tokens=True)
    told = tokenize_samples(samples, tokenizer_of_bytes(), max_length=1024)
    assert scores.token_losses is not None
    for row, (ids, labels) in enumerate(zip(told.input_ids, told.labels, strict=True)):
        wanted = dense_losses(model, ids, labels)
        np.testing.assert_allclose(scores.token_losses[row], wanted, rtol=2e-5)
        assert scores.loss[row] == pytest.approx(np.mean(wanted), rel=2e-5)
        assert scores.num_tokens[row] == len(wanted)
        assert scores.row_hash[row] == row_hash(ids, labels)
    tau = float(np.median(scores.loss))
    np.testing.assert_allclose(scores.weight, np.exp(-scores.loss / tau), rtol=1e-6)
    assert scores.metadata["temperature"] == pytest.approx(tau)
    read = read_scores(out)
    np.testing.assert_array_equal(read.weight, scores.weight)
    assert read.metadata == scores.metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores", "scores.parquet"]


def test_no_sample_disappears(model: Path, tmp_path: Path) -> None:
    scores = bequest.score(model, Dataset.from_list(ROWS), tmp_path / "s.parquet", max_length=30)
    assert scores.index.tolist() == [0, 1, 2, 3]
    assert scores.num_tokens.tolist() == [4, 16, 0, 9]
    assert scores.weight[2] == 0 and np.isnan(scores.loss[2])
    assert (scores.weight[[0, 1, 3]] > 0).all()
    assert scores.metadata["truncated"] == 2
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    overview = {row[0].strip(): row[1] for row in results["sections"][0]["data"]["rows"]}
    assert overview["truncated"] == 2 and overview["without a response token (weight 0)"] == 1


def test_a_loss_that_is_not_finite_weighs_nothing(model: Path, tmp_path: Path) -> None:
    """The second sample alone holds the byte whose embedding is broken."""
    broken = AutoModelForCausalLM.from_pretrained(model)
    (ids,) = [tokenizer_of_bytes().convert_tokens_to_ids(["Z"])]
    broken.get_input_embeddings().weight.data[ids] = torch.nan
    folder = tmp_path / "broken"
    broken.save_pretrained(folder)
    tokenizer_of_bytes().save_pretrained(folder)
    rows = [{"text": "plain words"}, {"text": "a Z here"}, {"text": "more words"}]
    scores = bequest.score(folder, Dataset.from_list(rows))
    assert scores.weight[1] == 0 and not np.isfinite(scores.loss[1])
    assert np.isfinite(scores.loss[[0, 2]]).all() and (scores.weight[[0, 2]] > 0).all()


@pytest.mark.parametrize("scheme", ["flow-token", "stm"])
def test_token_schemes_keep_what_they_need(model: Path, scheme: Any, tmp_path: Path) -> None:
    to = tmp_path / "w.parquet"
    scores = bequest.score(model, Dataset.from_list(ROWS), scheme=scheme, to_dataset=to)
    assert scores.token_losses is not None
    written = load_dataset("parquet", data_files=str(to), split="train")
    assert [len(row) for row in written["token_weights"]] == scores.num_tokens.tolist()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_the_data_set_gets_its_weights(model: Path, ending: str, tmp_path: Path) -> None:
    data, to = write_json_lines(tmp_path / "d.jsonl", ROWS), tmp_path / f"w.{ending}"
    scores = bequest.score(model, data, to_dataset=to, max_length=30)
    written = load_dataset(ending.removesuffix("l"), data_files=str(to), split="train")
    assert written.remove_columns("weight").to_list() == ROWS
    np.testing.assert_allclose(written["weight"], scores.weight, rtol=1e-7)
    with pytest.raises(InputError, match="column 'weight' already"):
        bequest.score(model, to, to_dataset=tmp_path / "again.jsonl")


@pytest.mark.parametrize("kind", ["file.json", "file.jsonl", "file.parquet", "folder", "saved"])
def test_data_comes_from_files_and_folders(model: Path, kind: str, tmp_path: Path) -> None:
    samples, place = Dataset.from_list(ROWS), tmp_path / kind
    if kind.endswith("parquet"):
        samples.to_parquet(place)
    elif kind == "file.json":
        place.write_text(json.dumps(ROWS))
    elif kind == "saved":
        samples.save_to_disk(place)
    else:
        (tmp_path / "folder").mkdir()
        write_json_lines(place / "train.jsonl" if kind == "folder" else place, ROWS)
    wanted = bequest.score(model, samples)
    np.testing.assert_array_equal(bequest.score(model, place).loss, wanted.loss)


def test_a_run_that_is_broken_off_is_taken_up(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, computed = tmp_path / "s.parquet", []
    real = engine._batch_losses

    def interrupted(*arguments: Any) -> Any:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(1)
        return real(*arguments)

    monkeypatch.setattr(engine, "_batch_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bequest.score(model, Dataset.from_list(ROWS), out, tokens_per_batch=1)
    assert not out.exists()
    assert [path.name[:15] for path in tmp_path.iterdir()] == [".s.parquet.spoo"]
    counted = []
    monkeypatch.setattr(engine, "_batch_losses", lambda *a: counted.append(1) or real(*a))
    scores = bequest.score(model, Dataset.from_list(ROWS), out, tokens_per_batch=1)
    assert len(counted) == len(ROWS) - 2
    np.testing.assert_array_equal(
        scores.loss, bequest.score(model, Dataset.from_list(ROWS), tokens_per_batch=1).loss
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.parquet"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": -1.5}, "temperature"),
        ({"scheme": "stm", "temperature": 2.0}, "stm"),
        ({"scheme": "best"}, "scheme"),
        ({"dtype": "int8"}, "dtype"),
        ({"tokens_per_batch": 0}, "tokens_per_batch"),
        ({"max_length": -1}, "max_length"),
        ({"max_length": 3}, "not one response token"),
        ({"out": "scores.json"}, ".parquet"),
        ({"out": "d.jsonl/s.parquet"}, "cannot be written"),
        ({"to_dataset": "w.csv"}, ".jsonl"),
        ({"revision": "main"}, "revision"),
        ({"split": "test"}, "test"),
        ({"data_name": "main"}, "data_name is 'main'"),
        ({"sft": {"packing": True}}, "packing"),
        ({"data": "./nowhere.jsonl"}, "does not exist"),
        ({"data": "./nowhere"}, "does not exist"),
        ({"model": "./nowhere"}, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_loads_no_model(
    model: Path,
    options: dict[str, Any],
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("bequest.training.score._load", loaded)
    monkeypatch.chdir(tmp_path)
    data = write_json_lines(tmp_path / "d.jsonl", [*ROWS[:1], ROWS[2]])
    arguments: dict[str, Any] = {"model": model, "data": data, "out": "s.parquet", **options}
    with pytest.raises(InputError) as raised:
        bequest.score(**arguments)
    assert found in str(raised.value) and "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


def test_a_sample_longer_than_the_models_positions_is_refused(model: Path) -> None:
    with pytest.raises(InputError, match="512 positions"):
        bequest.score(model, Dataset.from_list([{"text": "a" * 600}]))


@pytest.mark.parametrize("content", ['{"text": ', "not json", ""])
def test_a_file_that_is_no_data_is_refused(model: Path, content: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"d\.jsonl|no sample") as raised:
        bequest.score(model, tmp_path / "d.jsonl")
    assert "\n" not in str(raised.value)


def test_a_model_with_missing_weights_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    config = json.loads((model / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder)
    tokenizer_of_bytes().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"lacks model\.layers\.2"):
        bequest.score(folder, Dataset.from_list(ROWS))


def test_files_that_exist_are_kept(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    out.write_text("precious")
    with pytest.raises(InputError, match="--overwrite"):
        bequest.score(model, Dataset.from_list(ROWS), out)
    assert out.read_text() == "precious"
    bequest.score(model, Dataset.from_list(ROWS), out, overwrite=True)
    assert len(read_scores(out)) == len(ROWS)
