"""What is scored is what TRL trains on: held to a real SFTTrainer, form by form."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from bequest.errors import InputError
from bequest.training.sft_data import tokenize_samples
from training.tiny_sft import FORMS, TEMPLATE, save_model, tokenizer_of_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def trained_on(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Dataset:
    """What a user's own trainer feeds the real model."""
    config = SFTConfig(
        folder / "run", use_cpu=True, bf16=False, report_to="none", save_strategy="no", **settings
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = tokenizer_of_bytes()
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return trainer.train_dataset


CASES: list[tuple[str, dict[str, Any]]] = [
    *((form, {"max_length": 1024}) for form in FORMS),
    ("prompt-completion", {"max_length": 30}),
    ("prompt-completion", {"max_length": 12, "truncation_mode": "keep_end"}),
    ("prompt-completion", {"max_length": None, "completion_only_loss": False}),
    ("conversational", {"max_length": 60, "assistant_only_loss": True}),
    ("text", {"max_length": 20}),
]


@pytest.mark.parametrize(("form", "settings"), CASES)
def test_it_is_what_a_trainer_feeds_its_model(
    folder: Path, form: str, settings: dict[str, Any]
) -> None:
    theirs = trained_on(folder, FORMS[form], **settings)
    asked = dict(settings)
    ours = tokenize_samples(
        Dataset.from_list(FORMS[form]),
        tokenizer_of_bytes(),
        max_length=asked.pop("max_length"),
        settings=asked,
    )
    assert len(ours.input_ids) == len(FORMS[form])
    kept = [row for row, labels in enumerate(ours.labels) if (labels != -100).any()]
    assert [ours.input_ids[row].tolist() for row in kept] == list(theirs["input_ids"])
    assert [ours.labels[row].tolist() for row in kept] == list(theirs["labels"])


def test_what_truncation_takes_is_known() -> None:
    found = tokenize_samples(
        Dataset.from_list(FORMS["prompt-completion"]), tokenizer_of_bytes(), max_length=30
    )
    # Prompts of 14, 14, 64 and 3 bytes; answers of 3, 28, 5 and 8, and one end-of-sequence token.
    assert found.truncated.tolist() == [False, True, True, False]
    assert [int((labels != -100).sum()) for labels in found.labels] == [4, 16, 0, 9]
    assert [len(ids) for ids in found.input_ids] == [18, 30, 70, 12]
    assert found.labels[0][-1] == tokenizer_of_bytes().eos_token_id


def test_the_callers_accelerator_is_left_alone() -> None:
    """A trainer made from a configuration of before must find the device of before."""
    config = SFTConfig("run", use_cpu=True, bf16=True, report_to="none")
    Accelerator(mixed_precision="bf16")
    wanted = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    assert wanted[1]["_mixed_precision"] == "bf16" and config.bf16
    tokenize_samples(Dataset.from_list(FORMS["text"]), tokenizer_of_bytes(), max_length=20)
    assert (dict(PartialState._shared_state), dict(AcceleratorState._shared_state)) == wanted
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    wanted = torch.rand(3).tolist(), np.random.rand(), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    tokenize_samples(Dataset.from_list(FORMS["text"]), tokenizer_of_bytes(), max_length=20)
    assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == wanted


@pytest.mark.parametrize(
    ("rows", "template", "settings", "found"),
    [
        ([{"question": "a", "answer": "b"}], "", {}, "question, answer"),
        ([{"prompt": "a"}], "", {}, "`completion`"),
        (FORMS["conversational"], None, {}, "no chat template"),
        (FORMS["from-value"], None, {}, "no chat template"),
        (FORMS["text"], "", {"packing": True}, "packing"),
        (FORMS["text"], "", {"truncation_mode": "middle"}, "truncation"),
        (FORMS["text"], "", {"assistant_only_loss": True}, "conversational"),
        (FORMS["text"], "", {"eos_token": "<none>"}, "<none>"),
        ([{"text": "a"}, {"text": None}], "", {}, "cannot be prepared"),
        ([{"messages": []}], "", {}, "no message in `messages`"),
        ([*FORMS["conversational"], {"messages": []}], TEMPLATE, {}, ""),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    rows: list[dict[str, Any]], template: str | None, settings: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError) as raised:
        tokenize_samples(
            Dataset.from_list(rows), tokenizer_of_bytes(template), max_length=20, settings=settings
        )
    assert found in str(raised.value) and "\n" not in str(raised.value)
