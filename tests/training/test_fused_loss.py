"""The fused training loss: held to each model's own loss and gradients, whole, in float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

from bequest.training.fused_loss import FusedModel, find_fused_head
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain
from bequest.training.pretrain_trainer import PretrainTrainer
from bequest.training.throughput import Throughput
from losses.tiny_models import CONFIGS, VOCAB, tiny
from training.tiny_pretraining import settings


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, VOCAB, (3, 12), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[0, 5:9] = -100
    labels[2, :] = -100
    return ids, labels


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("items", [None, 57])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_the_models_own(name: str, items: int | None) -> None:
    model = tiny(name, dtype=torch.float64)
    head = find_fused_head(model)
    assert head is not None, "its loss is the plain one"
    ids, labels = batch()
    kwargs: dict[str, Any] = {} if items is None else {"num_items_in_batch": torch.tensor(items)}
    logits = model(input_ids=ids).logits[:, :-1].reshape(-1, VOCAB)
    reduction = "mean" if items is None else "sum"
    plain = torch.nn.functional.cross_entropy(
        logits, labels[:, 1:].reshape(-1), reduction=reduction
    ) / (items or 1)
    wanted = gradients(model, plain)
    fused = FusedModel(model, head)(input_ids=ids, labels=labels, **kwargs)["loss"]
    found = gradients(model, fused)
    # Some models' forward passes hold float32 in places, whatever their weights are.
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=0, check_dtype=False)
    for key, gradient in wanted.items():
        if gradient is None:
            assert found[key] is None or not found[key].any(), key  # type: ignore[union-attr]
        else:
            torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-7, msg=key)


def test_in_mixed_precision_it_rounds_as_the_model_does() -> None:
    model = tiny("llama-tied")
    head = find_fused_head(model)
    assert head is not None
    ids, labels = batch()
    mixed = partial(torch.autocast, "cpu", torch.bfloat16)
    with mixed():
        plain = model(input_ids=ids, labels=labels).loss
    wanted = gradients(model, plain)

    def forward(**inputs: Any) -> Any:
        with mixed():
            return model(**inputs)

    fused = FusedModel(forward, head, mixed)(input_ids=ids, labels=labels)["loss"]  # type: ignore[arg-type]
    found = gradients(model, fused)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=0)
    for key, gradient in wanted.items():
        assert gradient is not None and found[key] is not None
        gap = (found[key] - gradient).norm() / gradient.norm()
        assert gap < 0.02, key


def test_a_loss_that_is_not_the_plain_one_stays_the_models() -> None:
    config = AutoConfig.for_model(*CONFIGS["qwen3_moe"][:1], **CONFIGS["qwen3_moe"][1])
    config.output_router_logits = True
    assert find_fused_head(AutoModelForCausalLM.from_config(config)) is None

    model = tiny("llama")
    own = model.forward

    def with_penalty(**inputs: Any) -> Any:
        output = own(**inputs)
        if output.loss is not None:
            output.loss = output.loss + 1e-3 * output.logits.logsumexp(-1).square().mean()
        return output

    model.forward = with_penalty
    assert find_fused_head(model) is None


def test_the_search_leaves_no_trace() -> None:
    model = tiny("llama").train()
    before = torch.get_rng_state()
    assert find_fused_head(model) is not None
    assert model.training and torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not model.lm_head._forward_hooks and not model.lm_head._forward_pre_hooks


def test_a_run_with_it_is_a_run_without_it(tmp_path: Path) -> None:
    """With accumulation, so that the division by the step's tokens is Trainer's."""
    heads: list[Any] = []
    largest: list[int] = []

    class Watched(PretrainTrainer):
        def compute_loss(self, model: Any, *rest: Any, **named: Any) -> Any:
            heads.append(self.fused_head)
            head = self.model.get_output_embeddings()
            handle = head.register_forward_hook(lambda *seen: largest.append(seen[-1].numel()))
            try:
                return super().compute_loss(model, *rest, **named)
            finally:
                handle.remove()

    runs = {}
    for fused in (True, False):
        heads.clear()
        largest.clear()
        training = {"gradient_accumulation_steps": 2, "learning_rate": 1e-2, "eval_strategy": "no"}
        config = PretrainConfig(
            **settings(
                tmp_path, out=str(tmp_path / f"{fused}"), fused_loss=fused, training=training
            )
        )
        runs[fused] = run_pretrain(plan_pretrain(config), trainer_class=Watched)
        assert all((head is not None) == fused for head in heads)
        positions = 1 if fused else 2 * 16
        assert max(largest[:8]) == positions * 270
    for one, other in zip(runs[True].log, runs[False].log, strict=True):
        assert one.keys() == other.keys()
        for key in ("loss", "grad_norm", "eval_loss"):
            if key in one:
                assert one[key] == pytest.approx(other[key], rel=2e-5), key


@pytest.mark.parametrize("change", [{"torch_compile": True}, {"label_smoothing_factor": 0.1}])
def test_what_stands_against_it(change: dict[str, Any], tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **change)
    throughput = Throughput(lambda steps: steps, None, 1.0)
    trainer = PretrainTrainer(tiny("llama"), args, throughput=throughput, fused_loss=True)
    assert trainer.fused_head is None
