"""`plan_pretrain` and `run_pretrain` as a program uses them."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)
from transformers.integrations import is_tensorboard_available

from bequest.checkpoints import publish
from bequest.checkpoints.lineage import read_lineage
from bequest.checkpoints.lineage_check import verify_outputs
from bequest.errors import InputError, StorageError
from bequest.training import run_length
from bequest.training.divergence import DivergedError
from bequest.training.held_out_losses import read_losses
from bequest.training.pretrain import PretrainResult, run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import PretrainPlan, plan_pretrain
from bequest.training.pretrain_trainer import PretrainTrainer
from bequest.training.tokenizer_training import train_tokenizer
from training.tiny_pretraining import LLAMA, settings, texts


def plan(folder: Path, **changes: Any) -> PretrainPlan:
    return plan_pretrain(PretrainConfig(**settings(folder, **changes)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrain")


@pytest.fixture(scope="module")
def planned(folder: Path) -> PretrainPlan:
    averages = {"lawa": {"window": 2, "spacing": 2}, "ema": {"beta": 0.5}}
    return plan(folder, averages=averages, weights="lawa", training={"learning_rate": 0.01})


@pytest.fixture(scope="module")
def result(planned: PretrainPlan) -> PretrainResult:
    return run_pretrain(planned)


def test_the_finished_folder_is_the_measured_model(result: PretrainResult, folder: Path) -> None:
    """Its loss, computed anew from the files alone and one document after another."""
    model = AutoModelForCausalLM.from_pretrained(result.folder)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert len(tokenizer) == model.config.vocab_size == 270
    assert model.config.use_cache and model.config.eos_token_id == tokenizer.eos_token_id
    losses = read_losses(result.folder)
    assert list(losses) == ["trained", "lawa", "ema"] == list(result.losses)
    for name, one in losses.items():
        np.testing.assert_array_equal(one.token_losses, result.losses[name].token_losses)
    stream: list[int] = []
    for text in plan_pretrain(
        PretrainConfig(**settings(folder, out=str(folder / "o")))
    ).documents.held_out:
        stream += [tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    nats = []
    for start in range(0, len(stream) - 1, 15):
        ids = torch.tensor([stream[start : start + 16]])
        scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nats += [-s[i].item() for s, i in zip(scores, ids[0, 1:], strict=True)]
    real = [n for n, i in zip(nats, stream[1:], strict=True) if i != tokenizer.eos_token_id]
    np.testing.assert_allclose(result.losses["lawa"].token_losses, real, rtol=1e-4, atol=1e-5)
    assert result.losses["lawa"].loss != result.losses["trained"].loss


def test_the_folder_says_where_it_came_from(result: PretrainResult) -> None:
    record = read_lineage(result.folder)
    assert record["operation"] == "pretrain" and record["inputs"] == []
    assert record["settings"]["steps"] == 4 and record["settings"]["weights"] == "lawa"
    assert all(check.intact for check in verify_outputs(result.folder, record, full_hash=False))
    names = {path.name for path in result.folder.iterdir()}
    assert "training_args.bin" not in names and {"README.md", "results.json"} < names
    sections = json.loads((result.folder / "results.json").read_text())["sections"]
    lines = {s["title"]: s["data"]["series"] for s in sections if s["type"] == "lines"}
    assert [one["name"] for one in lines["Held-out loss"]] == ["trained", "lawa", "ema"]
    assert lines["Held-out loss"][0]["x"] == [2, 4] and "interval" in lines["Held-out loss"][0]
    assert lines["Training loss"][0]["x"] == [1, 2, 3, 4]
    assert result.log[0]["tokens_per_second"] > 0 and 0 < result.log[0]["mfu"] < 1.5


def test_the_card_claims_what_was_done_and_no_base(result: PretrainResult, tmp_path: Path) -> None:
    card = (result.folder / "README.md").read_text()
    assert re.findall(r"arXiv ([\d.]+)", card) == ["2306.03241"]
    shape = shutil.copytree(result.folder, tmp_path / "shape")
    (shape / "README.md").write_text("---\nlicense: mit\nbase_model: org/older\n---\n")
    changes: dict[str, Any] = {"train_tokenizer": None, "model_config": {}, "model": str(shape)}
    changes |= {"training": {"max_steps": 1, "eval_steps": 1, "save_steps": 1}}
    for scratch in (True, False):
        out = tmp_path / f"scratch-{scratch}"
        done = run_pretrain(plan(tmp_path, **changes, from_scratch=scratch, out=str(out)))
        data = ModelCard.load(done.folder / "README.md").data.to_dict()
        assert data.get("base_model") == (None if scratch else "org/older")
        assert ("license" in data) != scratch
        assert "arXiv" not in (done.folder / "README.md").read_text()


def test_run_again_it_publishes_the_same(
    result: PretrainResult, folder: Path, planned: PretrainPlan
) -> None:
    before = load_file(result.folder / "model.safetensors")
    changes = {"averages": planned.config.averages, "weights": "lawa", "overwrite": True}
    again = plan(folder, **changes, training={"learning_rate": 0.01})
    assert again.goes_on and again.resume.step == 4 and again.length.exact
    done = run_pretrain(again)
    assert done.resumed_from == 4 and done.length == result.length
    after = load_file(done.folder / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)
    assert done.losses["ema"].token_losses.tolist() == result.losses["ema"].token_losses.tolist()


@pytest.mark.parametrize("field", ["model", "tokenizer", "data", "held_out", "teacher"])
def test_overwrite_does_not_remove_what_the_run_reads(tmp_path: Path, field: str) -> None:
    """Such as the stable checkpoint of the run that is thrown away."""
    read = tmp_path / "out.run" / "checkpoint-800"
    read.mkdir(parents=True)
    (read / "config.json").write_text("{}")
    (tmp_path / "out.run" / "run.json").write_text('{"identity": {}, "versions": ""}')
    changes: dict[str, Any] = {field: str(read), "train_tokenizer": None, "overwrite": True}
    if field == "teacher":
        changes["distillation"] = {"teacher": changes.pop("teacher")}
    with pytest.raises(InputError, match=rf"out.run overlaps [a-z_.]*{field} "):
        plan(tmp_path, **changes)
    assert (read / "config.json").is_file()


@pytest.mark.parametrize("field", ["model", "tokenizer", "data", "held_out", "teacher"])
def test_out_is_no_part_of_what_the_run_reads(tmp_path: Path, field: str) -> None:
    """A tokenizer's folder looks like a model's, which --overwrite replaces."""
    read = tmp_path / "read"
    read.mkdir()
    (read / "config.json").write_text("{}")
    changes: dict[str, Any] = {field: str(read), "train_tokenizer": None, "overwrite": True}
    if field == "teacher":
        changes["distillation"] = {"teacher": changes.pop("teacher")}
    for out in (read, read / "out"):
        with pytest.raises(InputError, match=rf"^out .* overlaps [a-z_.]*{field} "):
            plan(tmp_path, **changes, out=str(out), run_dir=str(tmp_path / "run"))
    assert [path.name for path in read.iterdir()] == ["config.json"]


def test_what_is_written_already_needs_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was broken off goes on with room for one checkpoint, too little to begin."""

    class Stop(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    made = plan(tmp_path, training={"save_total_limit": 1})
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(made, callbacks=[Stop()])
    # Weights, two moments, and some of the trainer's own files.
    room = publish._SPARE_BYTES + 3 * 4 * made.num_parameters
    monkeypatch.setattr(
        publish.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, room)
    )
    with pytest.raises(StorageError, match="free space"):
        run_pretrain(plan(tmp_path, out=str(tmp_path / "other"), training={"save_total_limit": 1}))
    assert run_pretrain(plan(tmp_path, training={"save_total_limit": 1})).resumed_from == 2


def test_the_loss_is_the_plain_one(tmp_path: Path) -> None:
    """Two steps with accumulation against a loop written out in float64."""
    training = {
        "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "optim": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 1e9,
    }  # fmt: skip
    made = plan(tmp_path, schedule="constant", warmup=0, training=training)
    seen: list[torch.Tensor] = []

    class Watched(PretrainTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            if model.training:
                seen.append(inputs["input_ids"].clone())
            return super().compute_loss(model, inputs, *rest, **named)

    done = run_pretrain(made, trainer_class=Watched)
    assert len(seen) == 4
    reference = made.start.load(made.arguments.seed).double()
    for step in range(2):
        ids = torch.cat(seen[2 * step : 2 * step + 2])
        scores = reference(input_ids=ids).logits[:, :-1].reshape(-1, 270)
        loss = torch.nn.functional.cross_entropy(scores, ids[:, 1:].reshape(-1))
        assert done.log[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    trained = AutoModelForCausalLM.from_pretrained(done.folder).double()
    for one, other in zip(trained.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def write_start(folder: Path) -> None:
    torch.manual_seed(3)
    fields = {key: value for key, value in LLAMA.items() if key != "model_type"}
    LlamaForCausalLM(LlamaConfig(vocab_size=272, **fields)).save_pretrained(folder)
    train_tokenizer(texts(), 270).save_pretrained(folder)


def test_it_goes_on_from_a_models_weights(tmp_path: Path) -> None:
    write_start(tmp_path / "start")
    changes = {"model": str(tmp_path / "start"), "model_config": {}, "train_tokenizer": None}
    done = run_pretrain(plan(tmp_path, **changes, training={"max_steps": 1, "learning_rate": 0.0}))
    after = load_file(done.folder / "model.safetensors")
    assert all(
        after[name].equal(value)
        for name, value in load_file(tmp_path / "start" / "model.safetensors").items()
    )
    assert read_lineage(done.folder)["inputs"][0]["role"] == "start"
    for scratch, layers in ((True, 3), (True, 2)):
        shape = {"num_hidden_layers": layers}
        drawn = plan(
            tmp_path,
            **changes | {"from_scratch": scratch, "model_config": shape},
            out=str(tmp_path / "d"),
        )
        assert (
            drawn.start.config.num_hidden_layers == layers and drawn.start.config.vocab_size == 270
        )
        assert drawn.num_parameters == sum(p.numel() for p in drawn.start.load(0).parameters())


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_another_model_in_the_same_place_is_another_run(tmp_path: Path, role: str) -> None:
    for name in ("model", "teacher"):
        write_start(tmp_path / name)
    changes = {
        "model": str(tmp_path / "model"),
        "model_config": {},
        "train_tokenizer": None,
        "distillation": {"weight": 0.5, "teacher": str(tmp_path / "teacher")},
    }
    before = plan(tmp_path, **changes).record
    assert plan(tmp_path, **changes).record == before
    file = tmp_path / role / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][-1, -1] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    after = plan(tmp_path, **changes).record
    told = {"model": "contents of model", "teacher": "distillation"}[role]
    assert [name for name in before if before[name] != after[name]] == [told]


def test_a_length_from_epochs(tmp_path: Path) -> None:
    training = {"max_steps": -1, "num_train_epochs": 2.5, "gradient_accumulation_steps": 3}
    data = Dataset.from_dict({"text": texts(20)})
    made = plan_pretrain(PretrainConfig(**settings(tmp_path, training=training)), data=data)
    read = []

    class Counting(PretrainTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            read.append(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *rest)

    done = run_pretrain(made, trainer_class=Counting)
    assert done.length.tokens_trained == sum(read)
    assert read_lineage(done.folder)["settings"]["tokens_read"] == sum(read)
    assert f"{sum(read):,} in all" in (done.folder / "README.md").read_text()
    blocks = done.length.training_tokens // 16
    assert done.length.steps == math.ceil(2.5 * math.ceil(math.ceil(blocks / 2) / 3))
    assert [entry["step"] for entry in done.log if "loss" in entry][-1] == done.length.steps
    assert made.length.steps == pytest.approx(done.length.steps, rel=0.3)


def test_dropped_batches_are_never_held_out_ones(tmp_path: Path) -> None:
    """Of 4 steps no batch is incomplete, so training is the same; evaluations are, too."""
    losses = []
    for drop in (False, True):
        training = {"dataloader_drop_last": drop, "per_device_eval_batch_size": 7}
        made = plan(tmp_path, out=str(tmp_path / f"out-{drop}"), training=training)
        losses.append(run_pretrain(made).losses["trained"].token_losses)
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "nowhere.jsonl"}, "data nowhere.jsonl does not exist"),
        ({"model_config": {}}, "model is missing"),
        (
            {"model_config": {"model_type": "lama"}},
            "model_config.model_type is 'lama'.*did you mean",
        ),
        (
            {"model_config": {"model_type": "bert"}},
            "type bert, which sees the tokens",
        ),
        ({"model_config": {**LLAMA, "hiden_size": 1}}, "did you mean hidden_size"),
        ({"model_config": {**LLAMA, "vocab_size": 20}}, "vocabulary of 20 tokens"),
        ({"block_length": 4096}, "the model has 2048 positions"),
        ({"block_length": 1}, "block_length is 1"),
        ({"train_tokenizer": 100}, "at least 257"),
        ({"train_tokenizer": None}, "tokenizer is missing"),
        ({"tokenizer": "x"}, "exclude each other"),
        ({"from_scratch": True}, "from_scratch needs model"),
        ({"schedule": "poly"}, "schedule is 'poly'"),
        ({"warmup": 9}, r"warmup \(9\) take more steps than the run has \(4\)"),
        ({"training": {"warmup_steps": 3}}, "training.warmup_steps contradicts schedule cosine"),
        (
            {"training": {"resume_from_checkpoint": "x"}},
            "is not yours to set: run the same command",
        ),
        (
            {"training": {"train_sampling_strategy": "group_by_length"}},
            "all blocks are of one length",
        ),
        ({"training": {"max_steps": 0, "num_train_epochs": 0}}, "asks for no step"),
        ({"weights": "lawa"}, "those of this run are trained"),
        (
            {"weights": "lawa", "averages": {"lawa": {"spacing": 5}}},
            "that average takes in nothing",
        ),
        ({"held_out_fraction": 0.0}, "held_out_fraction is 0.0"),
        ({"held_out_bytes": 0}, "held_out_bytes is 0"),
        ({"sample_by": "page"}, "sample_by is 'page'"),
    ],
)
def test_refused_before_a_file_is_made(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan(tmp_path, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


COMPILED = {"torch_compile": True, "torch_compile_backend": "aot_eager"}


@pytest.mark.parametrize(
    "how",
    [
        {"gradient_checkpointing": True},
        pytest.param(COMPILED, marks=pytest.mark.slow),
        pytest.param(COMPILED | {"gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_other_ways_to_compute_give_the_same_model(how: dict[str, Any], tmp_path: Path) -> None:
    changes = {"averages": {"ema": {"beta": 0.5}}, "block_length": 32}
    training = {"learning_rate": 0.01, "max_steps": 2}
    plain = run_pretrain(plan(tmp_path, **changes, training=training))
    other = run_pretrain(
        plan(tmp_path, **changes, out=str(tmp_path / "o"), training=training | how)
    )
    one, two = (load_file(done.folder / "model.safetensors") for done in (plain, other))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    for name, losses in plain.losses.items():
        assert other.losses[name].loss == pytest.approx(losses.loss, abs=1e-6)


def test_a_tracker_is_there_or_refused(tmp_path: Path) -> None:
    training = {"report_to": "tensorboard", "max_steps": 2}
    if is_tensorboard_available():
        run_pretrain(plan(tmp_path, training=training))
        assert list(tmp_path.rglob("events.out.tfevents*"))
        return
    with pytest.raises(InputError, match="'tensorboard', whose package is not installed"):
        plan(tmp_path, training=training)


DIVERGING = {"learning_rate": 1e38, "max_grad_norm": 0.0}


@pytest.mark.parametrize("weights", ["trained", "ema"])
def test_a_run_that_diverged_publishes_nothing(weights: str, tmp_path: Path) -> None:
    changes = {"averages": {"ema": {"beta": 0.5}}, "weights": weights, "training": DIVERGING}
    for _ in range(2):  # Also when it is gone on with.
        with pytest.raises(DivergedError, match=f"loss of its {weights} weights is nan") as raised:
            run_pretrain(plan(tmp_path, **changes))
        assert raised.value.exit_code == 1 and "lower training.learning_rate" in str(raised.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.run", "texts.jsonl"]
    state = json.loads((tmp_path / "out.run" / "checkpoint-4" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert math.isnan(losses[-1]), "the log says so, too"


def test_weights_that_no_loss_shows_are_looked_at(tmp_path: Path) -> None:
    """They break after they were measured."""

    class Breaking(PretrainTrainer):
        def save_model(self, *arguments: Any, **named: Any) -> None:
            if not named.get("_internal_call"):
                self.model.model.norm.weight.data[0] = torch.inf
            super().save_model(*arguments, **named)

    with pytest.raises(
        DivergedError, match=r"model\.norm\.weight holds values that are not finite"
    ):
        run_pretrain(plan(tmp_path), trainer_class=Breaking)
    assert not (tmp_path / "out").exists()


def test_a_run_that_a_callback_stops_says_what_it_read(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 3

    done = run_pretrain(plan(tmp_path), callbacks=[Stop()])
    assert (done.length.steps, done.length.tokens_trained) == (3, 3 * 2 * 16)
    assert read_lineage(done.folder)["settings"]["tokens_read"] == 3 * 2 * 16


def test_a_tokenizer_may_need_more_text_than_the_plan_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_length, "_SAMPLED_FOR_TOKENIZER", 30)
    made = plan(tmp_path, train_tokenizer=300)
    assert len(AutoTokenizer.from_pretrained(run_pretrain(made).folder)) == 300
    with pytest.raises(InputError, match=r"the text gives .* tokens at most"):
        run_pretrain(plan(tmp_path, train_tokenizer=5000, out=str(tmp_path / "other")))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"the text gives .* tokens at most"):
        plan(tmp_path, train_tokenizer=5000, out=str(tmp_path / "other"))


def test_text_that_is_dropped_whole_is_refused(tmp_path: Path) -> None:
    training = {"dataloader_drop_last": True, "per_device_train_batch_size": 900}
    with pytest.raises(InputError, match="dataloader_drop_last drops all of the text"):
        run_pretrain(plan(tmp_path, training=training))


def test_streamed_data_is_refused(tmp_path: Path) -> None:
    streamed: Any = Dataset.from_dict({"text": texts(9)}).to_iterable_dataset()
    with pytest.raises(InputError, match="streaming=False"):
        plan_pretrain(PretrainConfig(**settings(tmp_path)), data=streamed)
