"""The callback in real Trainers on tiny models, against runs without it and models it saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    Recipe,
    StochasticWeightAverage,
)
from bequest.averaging.snapshot import HostCopier
from bequest.errors import CheckpointError, InputError
from bequest.training import averaging_callback
from bequest.training.averaging_callback import WeightAveragingCallback

RECIPES: dict[str, Recipe] = {
    "lawa": LatestWeightAverage(window=3, spacing=2),
    "ema": ExponentialMovingAverage(beta=0.9),
    "swa": StochasticWeightAverage(start=4, every=1),
}


def tiny_model(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        **options,
    )
    return LlamaForCausalLM(config)


def tokens(seed: int, rows: int) -> Dataset:
    steps = np.random.default_rng(seed).integers(1, 4, size=(rows, 12))
    ids = (np.cumsum(steps, axis=1) % 64).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def trainer_for(
    folder: Path,
    recipes: dict[str, Recipe] | None,
    *,
    model: Any = None,
    eval_dataset: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    save_averaged: bool = True,
    **options: Any,
) -> Trainer:
    defaults: dict[str, Any] = {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "constant",
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 1,
    }
    trainer = Trainer(
        model=model or tiny_model(),
        args=TrainingArguments(output_dir=str(folder), **(defaults | options)),
        train_dataset=tokens(0, 64),
        eval_dataset=tokens(1, 12) if eval_dataset is None else eval_dataset,
        callbacks=callbacks,
    )
    if recipes is not None:
        trainer.add_callback(
            WeightAveragingCallback(trainer, save_averaged=save_averaged, **recipes)
        )
    return trainer


def weights(model: torch.nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in model.state_dict().items()}


def evaluations(trainer: Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def average_bytes(trainer: Trainer) -> dict[str, bytes]:
    averages = callback_of(trainer).averages
    return {
        f"{name}.{key}": value.numpy().tobytes()
        for name in averages.names
        for key, value in averages.average(name)
    }


def callback_of(trainer: Trainer) -> WeightAveragingCallback:
    found = [
        c for c in trainer.callback_handler.callbacks if isinstance(c, WeightAveragingCallback)
    ]
    return found[0]


def fresh_loss(folder: Path, trained: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(trained)
    return trainer_for(folder, None, model=model).evaluate()["eval_loss"]


def test_training_is_untouched_and_metrics_stand_side_by_side(tmp_path: Path) -> None:
    plain = trainer_for(tmp_path / "plain", None)
    plain.train()
    averaged = trainer_for(tmp_path / "averaged", RECIPES)
    averaged.train()
    assert weights(plain.model) == weights(averaged.model)
    for before, after in zip(evaluations(plain), evaluations(averaged), strict=True):
        assert before["eval_loss"] == after["eval_loss"]
        assert {"eval_lawa_loss", "eval_ema_loss", "eval_swa_loss"} <= after.keys()
    for step in (4, 8, 12):
        entry = next(e for e in evaluations(averaged) if e["step"] == step)
        checkpoint = tmp_path / "averaged" / f"checkpoint-{step}"
        for name in RECIPES:
            saved = fresh_loss(tmp_path / "fresh", checkpoint / "averaging" / name)
            assert entry[f"eval_{name}_loss"] == pytest.approx(saved, abs=1e-6)
        assert entry["eval_loss"] == pytest.approx(
            fresh_loss(tmp_path / "fresh", checkpoint), abs=1e-6
        )


def test_the_saved_average_is_that_of_the_members(tmp_path: Path) -> None:
    trainer_for(tmp_path, {"lawa": RECIPES["lawa"]}).train()
    members = [load_file(tmp_path / "averaging" / f"step-{s}.safetensors") for s in (8, 10, 12)]
    saved = load_file(tmp_path / "checkpoint-12" / "averaging" / "lawa" / "model.safetensors")
    for name, array in saved.items():
        mean = sum(member[name].astype(np.float64) * (1 / 3) for member in members)
        assert array.tobytes() == mean.astype(np.float32).tobytes(), name


def test_with_gradient_accumulation_steps_are_optimizer_steps(tmp_path: Path) -> None:
    trainer_for(tmp_path, RECIPES, gradient_accumulation_steps=3, save_total_limit=1).train()
    state = json.loads((tmp_path / "checkpoint-12" / "averaging" / "state.json").read_text())
    assert [m["step"] for m in state["averages"]["lawa"]["members"]] == [8, 10, 12]
    assert state["averages"]["ema"]["updates"] == 12
    raw = load_file(tmp_path / "checkpoint-12" / "model.safetensors")
    newest = load_file(tmp_path / "averaging" / "step-12.safetensors")
    assert all(raw[name].tobytes() == newest[name].tobytes() for name in newest)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options", [{}, {"save_total_limit": 1}, {"save_averaged": False}], ids=str
)
def test_interrupted_and_resumed_ends_with_the_same_bytes(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = trainer_for(tmp_path / "whole", RECIPES, **options)
    whole.train()
    cut = trainer_for(tmp_path / "cut", RECIPES, callbacks=[StopAt(7)], **options)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer_for(tmp_path / "cut", RECIPES, **options)
    resumed.train(resume_from_checkpoint=True)
    assert weights(whole.model) == weights(resumed.model)
    assert average_bytes(whole) == average_bytes(resumed)
    assert [e["eval_lawa_loss"] for e in evaluations(whole)] == [
        e["eval_lawa_loss"] for e in evaluations(resumed)
    ]
    kept = {file.name for file in (tmp_path / "cut" / "averaging").iterdir()}
    assert kept == {file.name for file in (tmp_path / "whole" / "averaging").iterdir()}
    if "save_total_limit" in options:
        assert kept == {f"step-{step}.safetensors" for step in (8, 10, 12)}


def test_resume_without_the_state_where_it_should_be(tmp_path: Path) -> None:
    trainer_for(tmp_path / "a", None, max_steps=4).train()
    late = trainer_for(tmp_path / "a", RECIPES)  # averages begin in the middle of the run
    late.train(resume_from_checkpoint=True)
    state = json.loads((tmp_path / "a/checkpoint-12/averaging/state.json").read_text())
    assert state["averages"]["ema"]["updates"] == 8
    changed = trainer_for(tmp_path / "a", {"lawa": LatestWeightAverage(spacing=3)}, max_steps=14)
    with pytest.raises(CheckpointError, match="same settings"):
        changed.train(resume_from_checkpoint=True)


def test_averages_come_from_the_checkpoint_that_training_goes_on_from(tmp_path: Path) -> None:
    for name, rate in (("a", 3e-2), ("b", 1e-1)):  # both runs have a checkpoint-4
        trainer_for(tmp_path / name, RECIPES, max_steps=4, learning_rate=rate).train()
    source = tmp_path / "a" / "checkpoint-4"
    moved = trainer_for(tmp_path / "b", RECIPES, max_steps=6)
    moved.train(resume_from_checkpoint=str(source))
    whole = trainer_for(tmp_path / "whole", RECIPES, max_steps=6)
    whole.train()
    assert average_bytes(moved) == average_bytes(whole)
    shutil.rmtree(source / "averaging")
    shutil.copytree(tmp_path / "whole" / "checkpoint-6" / "averaging", source / "averaging")
    mixed = trainer_for(tmp_path / "b", RECIPES, max_steps=6)
    shutil.copytree(
        tmp_path / "whole" / "averaging", tmp_path / "a" / "averaging", dirs_exist_ok=True
    )
    with pytest.raises(CheckpointError, match="up to step 6, but the trainer goes on from step 4"):
        mixed.train(resume_from_checkpoint=str(source))


def test_two_callbacks_on_one_trainer_are_refused(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, None)
    both = [WeightAveragingCallback(trainer, lawa=LatestWeightAverage(spacing=n)) for n in (2, 3)]
    trainer.add_callback(both[0])
    with pytest.raises(InputError, match="give all recipes to one"):
        WeightAveragingCallback(trainer, ema=ExponentialMovingAverage())
    trainer.add_callback(both[1])
    with pytest.raises(InputError, match="give all recipes to one"):
        trainer.train()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_average_that_decides_needs_its_state_in_checkpoints(tmp_path: Path) -> None:
    options: dict[str, Any] = {"load_best_model_at_end": True, "save_only_model": True}
    options |= {"greater_is_better": False, "max_steps": 4}
    refused = trainer_for(tmp_path, RECIPES, metric_for_best_model="eval_lawa_loss", **options)
    with pytest.raises(InputError, match="save_only_model is True, but eval_lawa_loss decides"):
        refused.train()
    assert refused.state.global_step == 0
    trainer_for(tmp_path, RECIPES, metric_for_best_model="eval_loss", **options).train()


@pytest.mark.parametrize("metric", ["eval_loss", "lawa_loss"])
def test_best_is_what_the_metric_names(tmp_path: Path, metric: str) -> None:
    trainer = trainer_for(
        tmp_path,
        RECIPES,
        save_strategy="best",
        metric_for_best_model=metric,
        greater_is_better=False,
        load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=9)],
        eval_steps=1,
        learning_rate=0.3,
        max_steps=14,
    )
    trainer.train()
    full = metric if metric.startswith("eval_") else f"eval_{metric}"
    known = [entry for entry in evaluations(trainer) if full in entry]
    # At step 1 there is no average to be the best.
    assert known[0]["step"] == (1 if metric == "eval_loss" else 2)
    best = min(known, key=lambda entry: entry[full])
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best['step']}")
    checkpoint = Path(trainer.state.best_model_checkpoint)
    source = checkpoint if metric == "eval_loss" else checkpoint / "averaging" / "lawa"
    saved = load_file(source / "model.safetensors")
    for name, array in saved.items():
        assert trainer.model.state_dict()[name].numpy().tobytes() == array.tobytes()


def test_a_checkpoint_on_sigterm_has_the_steps_own_update(tmp_path: Path) -> None:
    class Sigterm(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step + 1 == 6:
                jit = [c for c in trainer.callback_handler.callbacks if hasattr(c, "jit_manager")]
                jit[0].jit_manager.is_checkpoint_requested = True

    trainer = trainer_for(tmp_path, RECIPES, callbacks=[Sigterm()], enable_jit_checkpoint=True)
    trainer.train()
    assert trainer.state.global_step == 6
    whole = trainer_for(tmp_path / "whole", RECIPES)
    whole.train()
    resumed = trainer_for(tmp_path, RECIPES)
    resumed.train(resume_from_checkpoint=True)
    assert average_bytes(whole) == average_bytes(resumed)


def test_of_a_peft_model_the_adapter_is_averaged(tmp_path: Path) -> None:
    def adapted() -> Any:
        return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))

    whole = trainer_for(tmp_path / "whole", RECIPES, model=adapted(), save_total_limit=2)
    whole.train()
    folder = tmp_path / "whole" / "checkpoint-12" / "averaging" / "lawa"
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    assert all(
        "lora" in name for name in load_file(tmp_path / "whole/averaging/step-12.safetensors")
    )
    cut = trainer_for(tmp_path / "cut", RECIPES, model=adapted(), callbacks=[StopAt(7)])
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer_for(tmp_path / "cut", RECIPES, model=adapted())
    resumed.train(resume_from_checkpoint=True)
    assert average_bytes(whole) == average_bytes(resumed)


def test_every_evaluation_set_has_its_averages(tmp_path: Path) -> None:
    sets = {"near": tokens(1, 8), "far": tokens(2, 8)}
    trainer = trainer_for(
        tmp_path,
        RECIPES,
        eval_dataset=sets,
        metric_for_best_model="eval_far_lawa_loss",
        greater_is_better=False,
        save_strategy="best",
    )
    trainer.train()
    metrics = trainer.evaluate()
    for name in ("near", "far"):
        assert {f"eval_{name}_loss", f"eval_{name}_lawa_loss"} <= metrics.keys()
        alone = trainer.evaluate(sets[name])
        assert metrics[f"eval_{name}_lawa_loss"] == alone["eval_lawa_loss"]
        assert metrics[f"eval_{name}_loss"] == alone["eval_loss"]
    assert trainer.state.best_model_checkpoint is not None
    assert set(trainer.predict(sets["near"]).metrics) == {
        k
        for k in trainer.predict(sets["near"]).metrics
        if k.startswith("test_") and "lawa" not in k
    }


def test_a_compiled_model(tmp_path: Path) -> None:
    trainer = trainer_for(
        tmp_path, RECIPES, torch_compile=True, torch_compile_backend="eager", max_steps=4
    )
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-4" / "averaging" / "lawa" / "model.safetensors")
    assert "model.embed_tokens.weight" in saved
    (entry,) = evaluations(trainer)
    loss = fresh_loss(tmp_path / "fresh", tmp_path / "checkpoint-4" / "averaging" / "lawa")
    assert entry["eval_lawa_loss"] == pytest.approx(loss, abs=1e-5)


def test_a_second_training_starts_afresh(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, RECIPES, max_steps=4)
    trainer.train()
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-4" / "averaging" / "state.json").read_text())
    assert state["averages"]["ema"]["updates"] == 4


TRL: dict[str, Any] = {
    "eval_strategy": "steps",
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-2,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
}
"""Arguments of TRL's trainers here."""


def with_and_without(
    make: Callable[[Path], Trainer], folder: Path
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Train in `plain` without and in `averaged` with averages; the evaluations of both."""
    found = []
    for name in ("plain", "averaged"):
        trainer = make(folder / name)
        if name == "averaged":
            trainer.add_callback(WeightAveragingCallback(trainer, **RECIPES))
        trainer.train()
        found.append(evaluations(trainer))
    return found[0], found[1]


def test_sfttrainer_keeps_the_raw_side_metrics_apart(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")

    def make(folder: Path) -> Trainer:
        return trl.SFTTrainer(
            model=tiny_model(),
            args=trl.SFTConfig(str(folder), **TRL, max_steps=6, eval_steps=3, save_steps=3),
            train_dataset=tokens(0, 32),
            eval_dataset=tokens(1, 12),
            processing_class=word_tokenizer(),
        )

    plain, averaged = with_and_without(make, tmp_path)
    for before, after in zip(plain, averaged, strict=True):
        for key in ("eval_loss", "eval_mean_token_accuracy", "eval_entropy"):
            assert before[key] == after[key]
        assert after["eval_ema_mean_token_accuracy"] != after["eval_mean_token_accuracy"]
    assert (tmp_path / "averaged/checkpoint-6/averaging/ema/model.safetensors").exists()


def test_dpotrainer_keeps_the_raw_rewards_apart(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")

    def pairs(seed: int, rows: int) -> Dataset:
        numbers = np.random.default_rng(seed).integers(0, 60, size=(rows, 9))
        words = [[f"w{number}" for number in row] for row in numbers]
        return Dataset.from_list(
            [
                {
                    "prompt": " ".join(row[:3]),
                    "chosen": " " + " ".join(row[3:6]),
                    "rejected": " " + " ".join(row[6:]),
                }
                for row in words
            ]
        )

    def make(folder: Path) -> Trainer:
        return trl.DPOTrainer(
            model=tiny_model(),
            ref_model=tiny_model(),
            args=trl.DPOConfig(str(folder), **TRL, max_steps=4, eval_steps=2, save_steps=4),
            train_dataset=pairs(0, 16),
            eval_dataset=pairs(1, 8),
            processing_class=word_tokenizer(),
        )

    plain, averaged = with_and_without(make, tmp_path)
    for before, after in zip(plain, averaged, strict=True):
        raw = [key for key in before if key.startswith(("eval_rewards", "eval_logps", "eval_loss"))]
        assert "eval_rewards/margins" in raw
        assert [before[key] for key in raw] == [after[key] for key in raw]
        assert after["eval_ema_rewards/margins"] != after["eval_rewards/margins"]
    assert (tmp_path / "averaged/checkpoint-4/averaging/lawa/model.safetensors").exists()


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(62)} | {"<pad>": 62, "<eos>": 63}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def test_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipes is empty"):
        WeightAveragingCallback(trainer_for(tmp_path, None))


def _trainer_that_says(**said: Any) -> Any:
    """Stands for a trainer that needs hardware or packages which a test machine lacks."""
    facts: dict[str, Any] = {"is_deepspeed_enabled": False, "is_fsdp_enabled": False} | said
    return SimpleNamespace(**facts)


def _fsdp(version: int, state_dict_type: str) -> Any:
    plugin = SimpleNamespace(fsdp_version=version, state_dict_type=state_dict_type)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    return _trainer_that_says(is_fsdp_enabled=True, accelerator=accelerator)


@pytest.mark.parametrize(
    ("trainer", "searches", "message"),
    [
        (_trainer_that_says(is_deepspeed_enabled=True), False, "runs DeepSpeed.*use FSDP2"),
        (_trainer_that_says(), True, "searches hyperparameters"),
        (_fsdp(1, "FULL_STATE_DICT"), False, "fsdp_version is 1"),
        (_fsdp(2, "SHARDED_STATE_DICT"), False, "state_dict_type of FSDP is SHARDED_STATE_DICT"),
        (_fsdp(2, "FULL_STATE_DICT"), False, None),
        (_trainer_that_says(), False, None),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    trainer: Any, searches: bool, message: str | None
) -> None:
    state = TrainerState(is_hyper_param_search=searches)
    if message is None:
        averaging_callback._refuse_unsupported(trainer, state, save_averaged=True)
    else:
        with pytest.raises(InputError, match=message):
            averaging_callback._refuse_unsupported(trainer, state, save_averaged=True)


def test_the_best_weights_are_loaded_after_the_last_snapshot_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(TrainerCallback):  # at a step without an evaluation, which would wait, too
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 3

    events: list[str] = []
    start, order = HostCopier.start, HostCopier.order_after_copies
    monkeypatch.setattr(HostCopier, "start", lambda *a: (start(*a), events.append("snapshot"))[0])
    monkeypatch.setattr(
        HostCopier, "order_after_copies", lambda c: (order(c), events.append("order"))[0]
    )
    trainer = trainer_for(
        tmp_path,
        {"lawa": LatestWeightAverage(spacing=1)},
        save_averaged=False,
        load_best_model_at_end=True,
        callbacks=[Stop()],
        eval_steps=2,
        save_steps=2,
    )
    load = trainer._load_best_model
    monkeypatch.setattr(trainer, "_load_best_model", lambda: (events.append("load"), load()))
    trainer.train()
    assert events[-3:] == ["snapshot", "order", "load"]
