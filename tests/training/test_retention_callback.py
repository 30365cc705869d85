"""The retention callback in real runs: what it logs, when it stops them, and that it only looks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import bits_per_byte
from bequest.training.flow_trainer import FlowTrainer
from bequest.training.retention_callback import METRIC, RetentionCallback
from tests.training.sft_runs import (
    config,
    losses,
    parameters,
    same_bits,
    samples,
    tiny_model,
    tokenizer,
)

TEXTS = [
    " ".join(f"w{token}" for token in row["input_ids"] if token > 2)
    for row in samples(16).select(range(10, 16))
]
"""Mostly what the model finds likeliest: it has something to forget."""
NOISE = Dataset.from_dict(
    {"input_ids": np.random.default_rng(3).integers(3, 64, size=(8, 10)).tolist()}
)
ARGS = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.3}


def run(folder: Path, *, watched: bool = True, **options: Any) -> Any:
    """A trainer, and the callback that is on it."""
    args = {**ARGS, **options.pop("args", {})}
    trainer = FlowTrainer(
        tiny_model(),
        config(folder, **args),
        train_dataset=NOISE,
        eval_dataset=options.pop("eval_dataset", samples(4, seed=1)),
        processing_class=tokenizer(),
    )
    callback = RetentionCallback(trainer, TEXTS, window_bytes=64, overlap_bytes=16, **options)
    if watched:
        trainer.add_callback(callback)
    return trainer, callback


def measured(model: Any) -> float:
    return bits_per_byte(model, tokenizer(), TEXTS, window_bytes=64, overlap_bytes=16).bits_per_byte


def log_of(trainer: Any) -> list[tuple[int, float]]:
    return [(e["step"], e[METRIC]) for e in trainer.state.log_history if METRIC in e]


def test_it_logs_the_start_and_every_evaluation_and_changes_nothing(tmp_path: Path) -> None:
    sets = {"a": samples(4, seed=1), "b": samples(3, seed=2)}
    trainer, callback = run(tmp_path, eval_dataset=sets)
    trainer.train()
    log = log_of(trainer)
    assert [step for step, _ in log] == [0, 1, 2, 3, 4]
    assert callback.start == log[0][1] == pytest.approx(measured(tiny_model()), rel=1e-6)
    assert callback.latest == log[-1][1] == pytest.approx(measured(trainer.model), rel=1e-6)
    plain, _ = run(tmp_path, watched=False, eval_dataset=sets)
    plain.train()
    assert same_bits(parameters(plain), parameters(trainer))
    assert losses(plain) == losses(trainer)


def test_it_stops_a_run_that_forgets(tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    whole.train()
    rises = [value - log_of(whole)[0][1] for _, value in log_of(whole)]
    allowed = max(rises) / 2
    assert allowed > 0
    first = next(step for step, rise in enumerate(rises) if rise > allowed)
    stopped, callback = run(tmp_path, max_increase=allowed)
    stopped.train()
    assert log_of(stopped) == log_of(whole)[: first + 1]
    assert callback.latest > callback.start + allowed
    lenient, _ = run(tmp_path, max_increase=math.inf)
    lenient.train()
    assert lenient.state.global_step == 4


def test_a_resumed_run_measures_against_the_first_start(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, args={"save_strategy": "steps", "save_steps": 2})
    whole.train()
    resumed, callback = run(tmp_path, args={"save_strategy": "no"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert log_of(resumed) == log_of(whole)
    assert callback.start == log_of(whole)[0][1]


def test_it_can_decide_which_checkpoint_is_best(tmp_path: Path) -> None:
    trainer, _ = run(
        tmp_path,
        args={
            "save_strategy": "best",
            "metric_for_best_model": METRIC,
            "greater_is_better": False,
        },
    )
    trainer.train()
    assert trainer.state.best_metric == min(value for step, value in log_of(trainer) if step)


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_increase is -0\.1"):
        run(tmp_path, max_increase=-0.1)
    trainer, _ = run(tmp_path, args={"eval_strategy": "no"})
    with pytest.raises(InputError, match="eval_strategy is 'no'"):
        trainer.train()
