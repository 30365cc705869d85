"""L2, KL, SFA, WiSE-FT and the linear probe against slow computations by hand in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

import bequest
from bequest.checkpoints.companions import companion_files
from bequest.errors import CheckpointError, InputError
from bequest.training.method import MethodConfig
from bequest.training.start_blends import sfa_steps
from tests.training.sft_runs import (
    config,
    gap,
    parameters,
    same_bits,
    samples,
    tiny_model,
    tokenizer,
    trained,
)
from tests.training.test_flow_trainer import token_losses_of

Weights = dict[str, Tensor]
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def with_lora(**options: Any) -> LoraConfig:
    """The same adapters but for some settings."""
    return LoraConfig(**{**LORA.to_dict(), **options})


CUTS = [
    {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
    {"gradient_checkpointing": True},
    {"packing": True},
    {"padding_free": True, "max_length": None},
]


def start() -> Weights:
    return {name: value.detach().clone() for name, value in tiny_model().named_parameters()}


def doubled(weights: Weights) -> Weights:
    return {name: value.double() for name, value in weights.items()}


def descend(
    method: MethodConfig, steps: int, *, rate: float = 0.5, clip: float = 0.0, blends: Any = ()
) -> Weights:
    """Gradient descent on the penalised objective, all samples at once, in float64."""
    first = tiny_model().double()
    model = tiny_model().double()
    for step in range(1, steps + 1):
        objective = weighted(model, first, method)
        count = sum(p.numel() for p in model.parameters())
        apart = zip(model.parameters(), first.parameters(), strict=True)
        objective = objective + method.l2 / count * sum(
            ((p - q.detach()) ** 2).sum() for p, q in apart
        )
        if method.kl:
            objective = objective + method.kl * dense_kl(first, model)
        model.zero_grad()
        objective.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for p, q in zip(model.parameters(), first.parameters(), strict=True):
                p -= rate * p.grad
                if step in blends:
                    p.copy_((1 - method.sfa_alpha) * q + method.sfa_alpha * p)
    return {name: value.detach() for name, value in model.named_parameters()}


def weighted(model: Any, first: Any, method: MethodConfig) -> Tensor:
    """The weighted loss; of FLOW the weights are those of the first model."""
    own = [token_losses_of(model, row) for row in samples()]
    if method.scheme == "uniform":
        weights = [torch.ones(len(each)) for each in own]
    else:
        means = [token_losses_of(first, row).mean().item() for row in samples()]
        weights = [
            torch.full((len(each),), float(np.exp(-mean / np.median(means))))
            for each, mean in zip(own, means, strict=True)
        ]
    total = sum((w * each).sum() for w, each in zip(weights, own, strict=True))
    counted = sum(w.sum() if method.normalizer == "weights" else len(w) for w in weights)
    return total / counted


def dense_kl(first: Any, model: Any) -> Tensor:
    """Mean over response tokens of KL(first || model), from whole softmaxes."""
    values = []
    for row in samples():
        ids = torch.tensor([row["input_ids"]])
        wanted = torch.tensor(row["labels"])[1:] != -100
        with torch.no_grad():
            p = torch.softmax(first(input_ids=ids).logits[0, :-1], dim=-1)[wanted]
        log_q = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)[wanted]
        values.append((p * (p.log() - log_q)).sum(-1))
    return torch.cat(values).mean()


PENALTIES = [
    MethodConfig(scheme="uniform", l2=40.0),
    MethodConfig(l2=40.0, normalizer="weights"),
    MethodConfig(scheme="uniform", kl=0.7),
    MethodConfig(kl=0.7),
    MethodConfig(kl=0.3, l2=20.0, normalizer="weights"),
]


@pytest.mark.parametrize("method", PENALTIES, ids=lambda m: f"{m.scheme}-l2={m.l2}-kl={m.kl}")
def test_steps_follow_the_gradient_of_the_penalised_objective(
    tmp_path: Path, method: MethodConfig
) -> None:
    wanted = descend(method, 3)
    without = descend(MethodConfig(scheme=method.scheme, normalizer=method.normalizer), 3)
    assert gap(wanted, without) > 1e-3
    for cut in CUTS if method.kl and method.l2 else CUTS[:1]:
        args = {"max_steps": 3, "learning_rate": 0.5, **cut}
        run = trained(tmp_path, method=method, args=args)
        assert gap(doubled(parameters(run)), wanted) < 2e-5, cut


def test_clipping_sees_the_penalty(tmp_path: Path) -> None:
    method = MethodConfig(scheme="uniform", l2=1000.0)
    args = {"max_steps": 3, "learning_rate": 0.5, "max_grad_norm": 0.1}
    run = trained(tmp_path, method=method, args=args)
    assert gap(doubled(parameters(run)), descend(method, 3, clip=0.1)) < 2e-5


def test_penalties_are_logged(tmp_path: Path) -> None:
    method = MethodConfig(scheme="uniform", l2=40.0, kl=0.7)
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    run = trained(tmp_path, method=method, args={"max_steps": 2, "learning_rate": 0.5, **cut})
    first, model = tiny_model().double(), tiny_model().double()
    model.load_state_dict(descend(method, 1), strict=False)
    pairs = zip(model.parameters(), first.parameters(), strict=True)
    count = sum(p.numel() for p in model.parameters())
    l2 = sum(((p - q) ** 2).sum().item() for p, q in pairs) * 40.0 / count
    last = [entry for entry in run.state.log_history if "kl" in entry][-1]
    assert last["l2_penalty"] == pytest.approx(l2, rel=1e-4)
    assert last["kl"] == pytest.approx(dense_kl(first, model).item(), rel=1e-4)


@pytest.mark.parametrize("scheme", ["uniform", "flow"])
def test_sfa_blends_at_equal_distances(tmp_path: Path, scheme: str) -> None:
    method = MethodConfig(scheme=scheme, sfa=2, sfa_alpha=0.3)
    assert sfa_steps(2, 5) == [2, 5]
    run = trained(tmp_path, method=method, args={"max_steps": 5, "learning_rate": 0.5})
    assert gap(doubled(parameters(run)), descend(method, 5, blends=[2, 5])) < 2e-5


def test_wise_ft_is_the_blend_of_bequest_average(tmp_path: Path) -> None:
    args = {"max_steps": 3, "learning_rate": 0.5}
    tiny_model().save_pretrained(tmp_path / "start")
    plain = trained(tmp_path, method=MethodConfig(), args=args)
    plain.model.save_pretrained(tmp_path / "plain")
    blended = trained(tmp_path, method=MethodConfig(wise_ft=0.3), args=args)
    bequest.average_checkpoints(
        [tmp_path / "start", tmp_path / "plain"], tmp_path / "blend", coefficients=[0.7, 0.3]
    )
    wanted = dict(LlamaForCausalLM.from_pretrained(tmp_path / "blend").named_parameters())
    assert same_bits(parameters(blended), {k: v.detach() for k, v in wanted.items()})
    assert not same_bits(parameters(blended), parameters(plain))


@pytest.mark.parametrize("scheme", ["uniform", "flow", "flow-token", "dft"])
def test_the_linear_probe_leaves_all_but_the_head(tmp_path: Path, scheme: str) -> None:
    method = MethodConfig(scheme=scheme, linear_probe=True)
    args = {"max_steps": 3, "optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 0.1}
    run = trained(tmp_path, method=method, args=args)
    before, after = start(), parameters(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"lm_head.weight"}


def test_a_tied_head_has_no_linear_probe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tie_word_embeddings"):
        trained(
            tmp_path,
            model=tiny_model(tie_word_embeddings=True),
            method=MethodConfig(linear_probe=True),
        )


def test_kl_of_adapters_is_to_the_model_without_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), with_lora(init_lora_weights=False))
    reference = copy.deepcopy(model).double()
    objective = weighted(reference, None, MethodConfig(scheme="uniform"))
    (objective + 0.5 * dense_kl(tiny_model().double(), reference)).backward()
    wanted = {
        name: value.detach() - value.grad
        for name, value in reference.named_parameters()
        if value.requires_grad
    }
    run = trained(tmp_path, model=model, method=MethodConfig(scheme="uniform", kl=0.5))
    found = doubled(parameters(run))
    assert gap({name: found[name] for name in wanted}, wanted) < 1e-5


def test_kl_of_adapters_is_the_dense_kl(tmp_path: Path) -> None:
    method = MethodConfig(scheme="uniform", kl=1.0)
    args = {"max_steps": 2, "optim": "adamw_torch", "learning_rate": 0.05}
    run = trained(tmp_path, method=method, args=args, peft_config=LORA)
    step = trained(tmp_path, method=method, args={**args, "max_steps": 1}, peft_config=LORA)
    logged = [entry["kl"] for entry in run.state.log_history if "kl" in entry]
    assert logged[0] == pytest.approx(0.0, abs=1e-6)
    # The scheduler is constant, so the first of two steps is the only step of the other run.
    assert logged[1] == pytest.approx(dense_kl(tiny_model(), step.model.eval()).item(), rel=1e-4)


RESUMED = [
    MethodConfig(l2=40.0),
    MethodConfig(kl=0.7),
    MethodConfig(scheme="uniform", sfa=3, wise_ft=0.5),
]


@pytest.mark.parametrize("method", RESUMED, ids=["l2", "kl", "sfa+wise_ft"])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path, method: MethodConfig) -> None:
    args = {
        "max_steps": 6,
        "learning_rate": 0.05,
        "optim": "adamw_torch",
        "save_strategy": "steps",
        "save_steps": 2,
        "per_device_train_batch_size": 2,
    }
    data = samples(24)
    whole = trained(tmp_path / "whole", method=method, args=args, data=data)
    for step in (2, 4):
        checkpoint = str(tmp_path / "whole" / f"checkpoint-{step}")
        again = made(tmp_path / f"again-{step}", method, args, data)
        again.train(resume_from_checkpoint=checkpoint)
        assert same_bits(parameters(again), parameters(whole)), step


def test_a_run_is_resumed_from_its_own_start_only(tmp_path: Path) -> None:
    args = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}
    trained(tmp_path, method=MethodConfig(l2=1.0), args=args)
    checkpoint = tmp_path / "checkpoint-2"
    assert Path("bequest_start.json") not in companion_files(checkpoint)
    other = made(tmp_path, MethodConfig(l2=1.0), args, samples(), tiny_model(seed=1))
    with pytest.raises(CheckpointError, match="trained from other weights"):
        other.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "bequest_start.json").unlink()
    same = made(tmp_path, MethodConfig(l2=1.0), args, samples())
    with pytest.raises(CheckpointError, match="was saved without"):
        same.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": MethodConfig(), "scheme": "flow"}, "method is given, and scheme"),
        ({"method": MethodConfig(scores="a.parquet"), "scores": [1.0] * 8}, "scores is given in"),
        ({"method": MethodConfig(l2=1.0), "peft_config": LORA}, "l2 is 1.0"),
        ({"method": MethodConfig(linear_probe=True), "peft_config": LORA}, "linear_probe"),
        (
            {
                "method": MethodConfig(scheme="uniform", kl=1.0),
                "peft_config": with_lora(bias="all"),
            },
            "bias='all' trains biases",
        ),
        (
            {
                "method": MethodConfig(scheme="uniform", kl=1.0),
                "peft_config": with_lora(init_lora_weights="pissa"),
            },
            "init_lora_weights='pissa' changes",
        ),
        ({"method": MethodConfig(sfa=9)}, "training has only 1 steps"),
    ],
)
def test_it_refuses(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(tmp_path, **how)


def made(
    folder: Path, method: MethodConfig, args: dict[str, Any], data: Any, model: Any = None
) -> bequest.FlowTrainer:
    """A trainer that has not trained."""
    return bequest.FlowTrainer(
        tiny_model() if model is None else model,
        config(folder, **args),
        train_dataset=data,
        processing_class=tokenizer(),
        method=method,
    )
