"""FlowTrainer against losses by hand in float64, plain SFTTrainer, and itself run otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTTrainer

from bequest.training.flow_trainer import FlowTrainer
from tests.training.sft_runs import (
    config,
    gap,
    losses,
    parameters,
    same_bits,
    samples,
    tiny_model,
    tokenizer,
    trained,
)

STATIC = ["flow", "flow-token", "stm"]
GIVEN = [0.3, 0.0, 1.7, 0.02, 1.0, 0.9, 0.0, 2.5]


def token_losses_of(model: Any, row: dict[str, list[int]]) -> Tensor:
    """Losses of a sample's response tokens from raw logits, with gradients."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"])[1:]
    log_probs = torch.log_softmax(logits, dim=-1)
    picked = log_probs[torch.arange(len(labels)), labels.clamp(min=0)]
    return -picked[labels != -100]


def by_hand(model: Any, data: Dataset, scheme: str, normalizer: str) -> Tensor:
    """The objective of METHODS, sample after sample."""
    found = [token_losses_of(model, row) for row in data]
    known = [own.detach().numpy() for own in found]
    if scheme == "flow":
        means = np.array([own.mean() for own in known])
        weights = [
            np.full(len(k), np.exp(-m / np.median(means)))
            for k, m in zip(known, means, strict=True)
        ]
    elif scheme == "flow-token":
        tau = np.median(np.concatenate(known))
        weights = [np.exp(-own / tau) for own in known]
    elif scheme == "stm":
        weights = [(np.exp(-own) > 0.4).astype(float) for own in known]
    elif scheme == "dft":
        weights = [np.exp(-own) for own in known]
    elif scheme == "given":
        weights = [np.full(len(own), w) for own, w in zip(known, GIVEN, strict=True)]
    else:
        weights = [np.ones(len(own)) for own in known]
    total = sum((torch.tensor(w) * own).sum() for w, own in zip(weights, found, strict=True))
    counted = sum(w.sum() if normalizer == "weights" else len(w) for w in weights)
    return total / counted


@pytest.mark.parametrize("normalizer", ["tokens", "weights"])
@pytest.mark.parametrize("scheme", [*STATIC, "dft", "uniform", "given"])
def test_a_step_is_the_gradient_of_the_objective(
    tmp_path: Path, scheme: str, normalizer: str
) -> None:
    if (scheme, normalizer) == ("dft", "weights"):
        pytest.skip("refused: see test_flow_refusals.py")
    reference = tiny_model().double()
    objective = by_hand(reference, samples(), scheme, normalizer)
    objective.backward()
    wanted = {name: p.detach() - p.grad for name, p in reference.named_parameters()}
    how: dict[str, Any] = {"scores": GIVEN} if scheme == "given" else {"scheme": scheme}
    args = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    run = trained(tmp_path, args=args, normalizer=normalizer, **how)
    assert losses(run) == pytest.approx([objective.item()], rel=1e-4)
    assert gap({k: v.double() for k, v in parameters(run).items()}, wanted) < 1e-5


@pytest.mark.parametrize("scheme", ["flow", "uniform", "given", "column"])
@pytest.mark.parametrize("packing", [False, True])
def test_weights_of_one_are_the_plain_trainer_bit_for_bit(
    tmp_path: Path, scheme: str, packing: bool
) -> None:
    args = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
        "optim": "adamw_torch",
        "packing": packing,
        "shuffle_dataset": True,
        "max_length": 16,
    }
    how: dict[str, Any] = {
        "flow": {"temperature": 1e30},
        "uniform": {"scheme": "uniform"},
        "given": {"scores": np.ones(24)},
        "column": {},
    }[scheme]
    data = samples(24)
    plain = trained(tmp_path, trainer=SFTTrainer, data=data, args=args)
    if scheme == "column":
        data = data.add_column("weight", [1.0] * 24)
    ours = trained(tmp_path, data=data, args=args, **how)
    assert losses(ours) == losses(plain)
    assert same_bits(parameters(ours), parameters(plain))


@pytest.mark.parametrize(
    ("scheme", "normalizer"), [*((scheme, "tokens") for scheme in STATIC), ("flow", "weights")]
)
def test_how_a_step_is_cut_up_does_not_matter(tmp_path: Path, scheme: str, normalizer: str) -> None:
    how: dict[str, Any] = {"scheme": scheme, "normalizer": normalizer}
    whole = trained(tmp_path, args={"per_device_train_batch_size": 8}, **how)
    for args in (
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        {"pad_to_multiple_of": 32},
        {"gradient_checkpointing": True},
        {"packing": True},
        {"packing": True, "packing_strategy": "bfd_split"},
        {"padding_free": True, "max_length": None},
    ):
        other = trained(tmp_path, args=args, **how)
        assert losses(other) == pytest.approx(losses(whole), rel=1e-5), args
        assert gap(parameters(other), parameters(whole)) < 3e-6, args
    unweighted = trained(tmp_path, scheme="uniform")
    assert gap(parameters(unweighted), parameters(whole)) > 1e-3


@pytest.mark.parametrize("packing", [False, True])
def test_samples_of_weight_zero_have_no_influence(tmp_path: Path, packing: bool) -> None:
    data, changed = samples(), samples()
    silent = [row for row, weight in enumerate(GIVEN) if weight == 0]

    def other(row: dict[str, list[int]], index: int) -> dict[str, list[int]]:
        if index not in silent:
            return row
        ids = [3 + (token + 7) % 60 for token in row["input_ids"]]
        labels = [-100 if label == -100 else i for i, label in zip(ids, row["labels"], strict=True)]
        return {"input_ids": ids, "labels": labels}

    changed = changed.map(other, with_indices=True)
    args = {"packing": packing}
    first = trained(tmp_path, data=data, scores=GIVEN, args=args)
    second = trained(tmp_path, data=changed, scores=GIVEN, args=args)
    assert losses(first) == losses(second)
    assert same_bits(parameters(first), parameters(second))
    kept = [row for row in range(8) if row not in silent]
    without = trained(
        tmp_path,
        data=data.select(kept),
        scores=np.array(GIVEN)[kept],
        normalizer="weights",
        args={**args, "per_device_train_batch_size": len(kept)},
    )
    whole = trained(tmp_path, data=data, scores=GIVEN, normalizer="weights", args=args)
    assert gap(parameters(without), parameters(whole)) < 3e-6


def test_eval_loss_is_never_weighted(tmp_path: Path) -> None:
    run = FlowTrainer(
        tiny_model(),
        args=config(tmp_path),
        train_dataset=samples(),
        eval_dataset=samples().add_column("weight", [0.0] * 8),
        processing_class=tokenizer(),
    )
    plain = by_hand(tiny_model().double(), samples(), "uniform", "tokens").item()
    assert run.evaluate()["eval_loss"] == pytest.approx(plain, rel=1e-5)
    again = run.evaluate(run.train_dataset, metric_key_prefix="again")
    assert again["again_loss"] == pytest.approx(plain, rel=1e-5)
