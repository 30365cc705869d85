"""What a fine-tuning run refuses before it writes anything, and what it says it will do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from transformers import AutoTokenizer

from bequest.cli.main import main
from bequest.errors import InputError
from bequest.training.finetune_config import DataConfig, FinetuneConfig
from bequest.training.finetune_cost import estimate
from bequest.training.finetune_data import read_data, split_by_hash
from bequest.training.finetune_plan import plan_finetune
from bequest.training.score import score
from training.tiny_finetune import ROWS, Inputs, config_file, make_inputs
from training.tiny_sft import save_model, write_json_lines


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


OFF = {"eval_strategy": "no"}
CHAT = [{"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}]}]


def data_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    data = {"train": str(write_json_lines(folder / "own.jsonl", rows)), "eval_fraction": 0}
    return {"data": data, "retention": {"texts": None}, "training": OFF, **changes}


def weighted(weights: list[Any]) -> list[dict[str, Any]]:
    return [{**row, "weight": weight} for row, weight in zip(ROWS, weights, strict=False)]


def scores_of_others(folder: Path, inputs: Inputs) -> dict[str, Any]:
    file = folder / "scores.parquet"
    score(inputs.model, Dataset.from_list(ROWS[:5]), file)
    return {"method": {"scores": str(file)}}


def without_template(folder: Path, inputs: Inputs) -> dict[str, Any]:
    model = save_model(folder / "plain", template=None)
    return {"model": str(model), **data_of(folder, CHAT * 4)}


def other_tokenizer(folder: Path, inputs: Inputs) -> dict[str, Any]:
    """A model with fewer tokens than its tokenizer makes."""
    model = save_model(folder / "small")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["What", "make"])
    tokenizer.save_pretrained(model)
    return {"model": str(model)}


def without_head(folder: Path, inputs: Inputs) -> dict[str, Any]:
    from safetensors.torch import load_file, save_file

    model = save_model(folder / "headless")
    tensors = load_file(model / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return {"model": str(model)}


def tied_head(folder: Path, inputs: Inputs) -> dict[str, Any]:
    model = Path(without_head(folder, inputs)["model"])
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(config))
    return {"model": str(model), "method": {"linear_probe": True}}


def out_in_read(part: str, field: str, **others: Any) -> Any:
    """A folder that a field reads, and out within it."""

    def changes(folder: Path, inputs: Inputs) -> dict[str, Any]:
        read = folder / "read"
        read.mkdir()
        places = {"out": str(read / "out"), "run_dir": str(folder / "run")}
        return {part: {field: str(read), **others}, **places}

    return changes


def of_an_earlier_run(folder: Path, inputs: Inputs) -> dict[str, Any]:
    """A checkpoint of the run that --overwrite would throw away."""
    model = save_model(folder / "run" / "checkpoint-5")
    (folder / "run" / "run.json").write_text('{"identity": {}}')
    return {"model": str(model), "run_dir": str(folder / "run"), "overwrite": True}


def run_of_others(folder: Path, inputs: Inputs) -> dict[str, Any]:
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text('{"identity": {"model": "x"}}')
    return {"run_dir": str(folder / "run")}


REFUSED: dict[str, tuple[Any, str]] = {
    "missing columns": (lambda f, i: data_of(f, [{"a": "b"}] * 9), "columns"),
    "no data": ({"data": {"train": "nowhere.jsonl"}}, "nowhere.jsonl does not exist"),
    "no eval data": (
        {"data": {"eval": "no.jsonl", "eval_fraction": 0}},
        "data.eval no.jsonl does not exist",
    ),
    "no model": ({"model": "./nowhere"}, "model ./nowhere does not exist"),
    "no texts": ({"retention": {"texts": "no.txt"}}, "retention.texts no.txt"),
    "no scores": ({"method": {"scores": "no.parquet"}}, "no.parquet does not exist"),
    "all zero": (lambda f, i: data_of(f, weighted([0.0] * 40)), "no weight above 0"),
    "negative": (lambda f, i: data_of(f, weighted([1.0] * 9 + [-1.0])), "at least 0"),
    "two weights a row": (lambda f, i: data_of(f, weighted([[1.0, 2.0]] * 9)), "one weight a row"),
    "uneven weights": (
        lambda f, i: data_of(f, weighted([[1.0], [1.0, 2.0]] * 5)),
        "one weight a row",
    ),
    "missing weight": (lambda f, i: data_of(f, weighted([1.0, None] * 9)), "finite"),
    "weights and a scheme": (
        lambda f, i: {**data_of(f, weighted([1.0] * 9)), "method": {"scheme": "flow"}},
        "used as it is",
    ),
    "temperature 0": ({"method": {"temperature": 0}}, "temperature is"),
    "no such scheme": ({"method": {"scheme": "flux"}}, "scheme is 'flux'"),
    "rows without a score": (scores_of_others, "no score"),
    "chat without a template": (without_template, "no chat template"),
    "head too small": (other_tokenizer, "a head and an embedding of"),
    "no head": (without_head, "lacks lm_head.weight"),
    "unknown key": ({"modle": "x"}, "modle"),
    "unknown inner key": ({"data": {"trian": "x"}}, "trian"),
    "unknown setting": ({"training": {"learning_rat": 1}}, "did you mean learning_rate?"),
    "bad enumeration": ({"training": {"eval_strategy": "never"}}, "IntervalStrategy"),
    "not a number": ({"training": {"learning_rate": "fast"}}, "give a number"),
    "our setting": ({"training": {"output_dir": "x"}}, "set out or run_dir"),
    "other loss": ({"training": {"loss_type": "dft"}}, "loss_type"),
    "no evaluations": ({"training": OFF}, "eval_strategy is 'no'"),
    "too short": ({"training": {"max_length": 4}}, "not one response token"),
    "too long": (
        lambda f, i: data_of(f, [{"text": "long " * 300}], training={"max_length": None, **OFF}),
        "512",
    ),
    "all dropped": (
        {"training": {"dataloader_drop_last": True, "per_device_train_batch_size": 64}},
        "dataloader_drop_last drops all",
    ),
    "unknown lora key": ({"lora": {"rank": 3}}, "'rank'"),
    "no such modules": ({"lora": {"target_modules": ["nose"]}}, "nose"),
    "adapter on the head": ({"lora": {"target_modules": ["lm_head"]}}, "names the head"),
    "l2 with lora": ({"lora": {"r": 2}, "method": {"l2": 1.0}}, "l2"),
    "probe of a tied head": (tied_head, "tie_word_embeddings"),
    "more blends than steps": ({"method": {"sfa": 11}}, "only 10 steps"),
    "merge without lora": ({"merge": True}, "merge"),
    "unknown average": ({"averages": {"mean": {}}}, "mean"),
    "average without spacing": ({"averages": {"lawa": {"window": 2}}}, "spacing"),
    "weights of no average": ({"weights": "lawa"}, "weights is 'lawa'"),
    "unmeasured retention": ({"data": {"eval_fraction": 0}}, "retention is measured"),
    "increase of nothing": (
        {"retention": {"texts": None, "max_increase": 0.1}},
        "retention.texts is not",
    ),
    "whole held out": ({"data": {"eval_fraction": 1.0}}, "eval_fraction is 1.0"),
    "out in the model": ({"out": "MODEL"}, "overlaps"),
    "out in the data": (out_in_read("data", "train"), "overlaps data.train"),
    "out in the evaluated data": (
        out_in_read("data", "eval", eval_fraction=0),
        "overlaps data.eval",
    ),
    "out in the texts": (out_in_read("retention", "texts"), "overlaps retention.texts"),
    "out in the run": ({}, "overlaps out"),
    "a file as run_dir": ({"run_dir": "DATA"}, "is a file"),
    "something else in run_dir": ({"run_dir": "MODEL"}, "something else"),
    "the model in run_dir": (of_an_earlier_run, "overlaps model"),
    "another run in run_dir": (run_of_others, "holds a run with"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_no_file(
    name: str, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, found = REFUSED[name]
    changes = dict(changes(tmp_path, inputs) if callable(changes) else changes)
    if name == "out in the run":
        changes = {"run_dir": str(tmp_path / "run"), "out": str(tmp_path / "run" / "out")}
    for field, place in (("out", inputs.model / "x"), ("run_dir", inputs.model)):
        if changes.get(field) == "MODEL":
            changes[field] = str(place)
        elif changes.get(field) == "DATA":
            changes[field] = str(inputs.data)
    file = config_file(tmp_path / "c.yaml", inputs, **{"out": str(tmp_path / "out"), **changes})
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    code = main(["finetune", "--config", str(file)])
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("bequest finetune: error: ") and found in last, captured
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_changed_anywhere_is_another(inputs: Inputs, tmp_path: Path) -> None:
    """Such as in the embedding of its last token, far from where the tensor begins."""
    from safetensors.torch import load_file, save_file

    model = Path(shutil.copytree(inputs.model, tmp_path / "model"))
    config = FinetuneConfig(
        model=str(model), out=str(tmp_path / "out"), data=DataConfig(train=str(inputs.data))
    )
    before = plan_finetune(config).identity
    assert plan_finetune(config).identity == before
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][-1, -1] += 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    after = plan_finetune(config).identity
    assert [name for name in before if before[name] != after[name]] == ["contents of model"]


README = """---
configs:
- config_name: sums
  data_files: [{split: train, path: sums.jsonl}, {split: test, path: held.jsonl}]
- config_name: other
  data_files: [{split: train, path: held.jsonl}, {split: test, path: sums.jsonl}]
---
# As the hub has them
"""


def test_a_configuration_of_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "README.md").write_text(README)
    write_json_lines(folder / "sums.jsonl", ROWS[:7])
    write_json_lines(folder / "held.jsonl", ROWS[7:10])

    def lengths(**asked: Any) -> tuple[int, int | None]:
        samples, held_out = read_data(DataConfig(train=str(folder), **asked))
        return len(samples), None if held_out is None else len(held_out)

    assert lengths(name="sums") == (7, None)
    # Of the same data it is the same configuration, unless another is named.
    assert lengths(name="sums", eval_split="test") == (7, 3)
    assert lengths(name="sums", eval=str(folder), eval_split="test[:2]") == (7, 2)
    assert lengths(name="sums", eval_name="other") == (7, 3)
    assert lengths(name="sums", eval=str(folder / "held.jsonl")) == (7, 3)
    for asked, said in (
        ({}, "data.train .*data has several configurations; set data.name to one of sums, other"),
        ({"name": "x"}, "data.train .*'x' not found"),
        ({"name": "sums", "eval_name": "x"}, "data.train .*'x' not found"),
        ({"name": "sums", "eval_split": "dev"}, "data.train .*dev"),
        (
            {"name": "sums", "eval": str(folder / "held.jsonl"), "eval_name": "x"},
            "data.eval_name is 'x', but .*held.jsonl has no configurations",
        ),
    ):
        with pytest.raises(InputError, match=said):
            lengths(**asked)
    with pytest.raises(InputError, match=r"data\.name is 'x', but a data set in memory has no"):
        read_data(DataConfig(train="memory", name="x"), Dataset.from_list(ROWS))


def test_a_configuration_from_the_command_line(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path / "c.yaml", inputs, out=str(tmp_path / "out"))
    words = ["--data.name", "sums", "--data.eval_name", "other", "--data.eval_fraction", "0"]
    with pytest.raises(SystemExit):
        main(["finetune", "--config", str(file), *words, "--print_config"])
    asked = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (asked["name"], asked["eval_name"]) == ("sums", "other")
    assert main(["finetune", "--config", str(file), *words]) == 2
    assert "data.name is 'sums', but" in capsys.readouterr().err


def test_dropped_batches_are_never_evaluated_ones(inputs: Inputs, tmp_path: Path) -> None:
    from bequest.training.finetune import make_trainer

    config = FinetuneConfig(
        model=str(inputs.model),
        out=str(tmp_path / "out"),
        data=DataConfig(train=str(inputs.data), eval_fraction=0.2),
        training={"dataloader_drop_last": True, "per_device_eval_batch_size": 5},
        method=_uniform(),
    )
    plan = plan_finetune(config)
    trainer = make_trainer(plan, None)
    assert plan.held_out is not None and len(plan.held_out.labels) % 5
    read = sum(len(batch["labels"]) for batch in trainer.get_eval_dataloader())
    assert read == len(plan.held_out.labels)
    # Of the training samples a last batch is still dropped, as was asked.
    assert trainer.args.dataloader_drop_last
    loader = trainer.get_train_dataloader()
    assert len(loader) == len(trainer.train_dataset) // 8 < len(trainer.train_dataset) / 8
    assert plan.num_steps == trainer.set_initial_training_values(trainer.args, loader)[-1]


def test_streamed_data_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    config = FinetuneConfig(
        model=str(inputs.model), out=str(tmp_path / "o"), data=DataConfig(train="memory")
    )
    with pytest.raises(InputError, match="streaming=False"):
        plan_finetune(config, train=Dataset.from_list(ROWS).to_iterable_dataset())


def test_a_split_by_hash_depends_on_the_samples_alone() -> None:
    rows = [{"text": f"sample {number}", "n": number % 3} for number in range(400)]
    train, held_out = split_by_hash(Dataset.from_list(rows * 2), 0.25)
    assert 0.18 < len(held_out) / 800 < 0.32
    held = {json.dumps(row) for row in held_out}
    assert not held & {json.dumps(row) for row in train}
    assert len(held_out) == 2 * len(held)
    _, shuffled = split_by_hash(Dataset.from_list(rows[::-1]), 0.25)
    assert {json.dumps(row) for row in shuffled} == held
    more = split_by_hash(Dataset.from_list(rows), 0.5)[1]
    assert held < {json.dumps(row) for row in more}


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": ["q_proj"]}])
def test_the_plan_counts_what_the_trainer_will_do(
    lora: dict[str, Any] | None, inputs: Inputs, tmp_path: Path
) -> None:
    from bequest.training.finetune import make_trainer

    training = {"num_train_epochs": 3, "per_device_train_batch_size": 3}
    config = FinetuneConfig(
        model=str(inputs.model),
        out=str(tmp_path / "out"),
        data=DataConfig(train=str(inputs.data)),
        training={**training, "gradient_accumulation_steps": 2},
        lora=lora,
        **{"method": _uniform()},
    )
    plan = plan_finetune(config)
    assert not list(tmp_path.iterdir())
    trainer = make_trainer(plan, None)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert plan.num_trained == trained == (2 * 4 * 2 * 32 if lora else 34_080)
    loader = trainer.get_train_dataloader()
    steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
    assert plan.num_steps == steps == 3 * 7
    tokens = sum(len(row) for row in trainer.train_dataset["input_ids"])
    cost = estimate(plan)
    assert cost.tokens == pytest.approx(3 * tokens, rel=0.1)
    assert cost.weights == 4 * 34_080
    assert cost.gradients == 12 * trained


def _uniform() -> Any:
    from bequest.training.method import MethodConfig

    return MethodConfig(scheme="uniform")
