from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments, integrations

from bequest.averaging.recipes import ExponentialMovingAverage, LatestWeightAverage
from bequest.errors import InputError
from bequest.training.average_recipes import average_recipes, check_weights
from bequest.training.training_arguments import make_arguments, read_training


def read(**training: Any) -> dict[str, Any]:
    reserved = {"output_dir": "set out"}
    return read_training(TrainingArguments, training, defaults={"seed": 7}, reserved=reserved)


def test_texts_become_what_the_field_holds(tmp_path: Path) -> None:
    settings = read(
        learning_rate="1e-5", max_steps="12", save_total_limit="null", gradient_checkpointing="true"
    )
    assert settings["learning_rate"] == 1e-5 and settings["max_steps"] == 12
    assert settings["gradient_checkpointing"] is True and settings["seed"] == 7
    assert read(seed=8, learning_rate=1)["seed"] == 8


def test_the_arguments_are_the_trainers(tmp_path: Path) -> None:
    made = make_arguments(TrainingArguments, read(learning_rate="1e-5"), tmp_path / "run")
    assert isinstance(made, TrainingArguments) and made.learning_rate == 1e-5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"learning_rat": 1}, "did you mean learning_rate"),
        ({"qqqq": 1}, "see TrainingArguments"),
        ({"output_dir": "x"}, "training.output_dir is not yours to set: set out"),
        ({"learning_rate": "fast"}, "training.learning_rate is 'fast'; give a number"),
        ({"learning_rate": [1]}, "give a number"),
        ({"max_steps": True}, "give a number"),
        ({"bf16": "maybe"}, "give true or false"),
        ({"per_device_train_batch_size": 0}, "give at least 1"),
        ({"learning_rate": float("nan")}, "give at least 0"),
    ],
)
def test_names_and_kinds(training: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(**training)


@pytest.mark.parametrize(
    "training",
    [{"optim": "none such"}, {"eval_strategy": "sometimes"}, {"load_best_model_at_end": True}],
)
def test_values_are_judged_by_the_class(training: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training is not what TrainingArguments takes: "):
        make_arguments(TrainingArguments, read(**training), tmp_path)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"push_to_hub": True}, "push_to_hub is True: .* upload out when it is finished"),
        ({"hub_token": "secret"}, "hub_token is set: it would stand in the lineage"),
        ({"bf16_full_eval": "true"}, "bf16_full_eval is True: .* cast the weights for good"),
        ({"fp16_full_eval": True}, "fp16_full_eval is True"),
    ],
)
def test_what_would_spoil_a_run_is_refused(training: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        read(**training)
    assert "secret" not in str(raised.value)
    assert read(push_to_hub=False, bf16_full_eval=False)["push_to_hub"] is False


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"accelerator_config": {"split_batches": True}}, "split_batches is True: batches would"),
        ({"accelerator_config": {"dispatch_batches": True}}, "would read other batches"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "use_seedable_sampler is False"),
        ({"report_to": "clipboard"}, "report_to is clipboard: clipboard is not supported"),
        ({"report_to": ["codecarbon"]}, "'codecarbon', whose package is not installed"),
    ],
)
def test_what_would_be_noticed_late_is_refused_at_once(
    training: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: [])
    with pytest.raises(InputError, match=words):
        make_arguments(TrainingArguments, read(**training), tmp_path)
    harmless = {"split_batches": False, "dispatch_batches": False, "use_seedable_sampler": True}
    assert make_arguments(TrainingArguments, read(accelerator_config=harmless), tmp_path)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("bits_per_byte", False),
        ("eval_retention_bits_per_byte", False),
        ("eval_lawa_loss", False),
        ("accuracy", True),
    ],
)
def test_the_lowest_bits_per_byte_are_best(metric: str, greater: bool, tmp_path: Path) -> None:
    def made(**training: Any) -> TrainingArguments:
        settings = read(metric_for_best_model=metric, **training)
        return make_arguments(TrainingArguments, settings, tmp_path)

    assert made().greater_is_better is greater
    assert made(greater_is_better=True).greater_is_better is True


def test_a_bare_no_of_yaml_is_a_strategy(tmp_path: Path) -> None:
    settings = read(eval_strategy=False, save_strategy=False)
    made = make_arguments(TrainingArguments, settings, tmp_path)
    assert (made.eval_strategy, made.save_strategy) == ("no", "no")


def test_averages_by_a_line_each() -> None:
    made = average_recipes(
        {"ema": {}, "lawa": {"spacing": 4}, "wide": {"kind": "lawa", "spacing": 9, "window": 3}}
    )
    assert made == {
        "ema": ExponentialMovingAverage(),
        "lawa": LatestWeightAverage(spacing=4),
        "wide": LatestWeightAverage(spacing=9, window=3),
    }
    check_weights("wide", made)
    check_weights("trained", {})


@pytest.mark.parametrize(
    ("averages", "words"),
    [
        ({"ema": 0.9}, "averages.ema is 0.9; give its settings"),
        ({"mean": {}}, "averages.mean is of the kind 'mean'; choose of lawa, ema, swa"),
        ({"lawa": {}}, "averages.lawa missing"),
        ({"lawa": {"spacng": 1}}, "averages.lawa got an unexpected keyword argument 'spacng'"),
        ({"ema": {"beta": 1}}, "averages.ema: beta is 1"),
        ({"lawa": {"spacing": "x"}}, "averages.lawa.spacing is 'x'"),
        ({"trained": {"kind": "ema"}}, "averages names 'trained'"),
    ],
)
def test_averages_that_are_none(averages: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        average_recipes(averages)


def test_weights_that_a_run_will_not_have() -> None:
    with pytest.raises(InputError, match="weights is 'ema'; those of this run are trained"):
        check_weights("ema", {})
