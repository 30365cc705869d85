from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bequest.errors import InputError, UnsupportedModelError
from bequest.losses import token_losses as engine
from bequest.losses.token_losses import token_losses
from losses.tiny_models import CONFIGS, VOCAB, tiny

LENGTHS = [7, 1, 23, 12, 0, 2, 12, 40, 3]


def sequences(seed: int = 0, lengths: list[int] = LENGTHS) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def masked(rows: list[list[int]], seed: int = 1, share: float = 0.4) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[-100 if rng.random() < share else token for token in row] for row in rows]


def reference(model: Any, rows: list[list[int]], labels: list[list[int]]) -> list[np.ndarray]:
    """One sequence at a time, the model's own logits, log-softmax in float64."""
    expected = []
    for ids, wanted in zip(rows, labels, strict=True):
        losses = np.full(len(ids), np.nan)
        if ids:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double()
            log_probs = torch.log_softmax(logits, dim=-1)
            for t in range(1, len(ids)):
                if wanted[t] != -100:
                    losses[t] = -log_probs[t - 1, wanted[t]].item()
        expected.append(losses)
    return expected


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_equal_a_float64_pass_one_sequence_at_a_time(name: str) -> None:
    model = tiny(name)
    rows = sequences()
    labels = masked(rows)
    expected = reference(tiny(name, dtype=torch.float64), rows, labels)
    found = token_losses(model, rows, labels, tokens_per_batch=40)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == np.float32
        assert got.shape == want.shape
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_half_precision_losses_are_those_of_the_models_own_logits(name: str) -> None:
    model = tiny(name, dtype=torch.bfloat16)
    rows = sequences()
    for got, want in zip(token_losses(model, rows), reference(model, rows, rows), strict=True):
        np.testing.assert_allclose(got, want, rtol=0.05, atol=0.1)


def test_batches_and_pieces_of_logits_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    rows = sequences()
    whole = token_losses(model, rows, tokens_per_batch=10**6)
    monkeypatch.setattr(engine, "_LOGITS_AT_ONCE", 3 * VOCAB)
    pieces = token_losses(model, rows, tokens_per_batch=1)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_head_never_sees_a_position_that_is_not_wanted() -> None:
    model = tiny("llama")
    rows = sequences()
    labels = [[-100] * len(row) for row in rows]
    labels[7][30] = labels[2][5] = 4
    seen: list[int] = []
    plain = nn.functional.linear

    def counting(hidden: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        if weight is model.lm_head.weight:
            seen.append(hidden.numel() // hidden.shape[-1])
        return plain(hidden, weight, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", counting)
        found = token_losses(model, rows, labels)
    probe = 2 * 16 + 1  # the model's own logits, the same from its hidden states, the causal check
    assert sum(seen) <= probe + 2 + 1  # two labels, and one position a batch for the model itself
    assert sum(np.isfinite(losses).sum() for losses in found) == 2


def test_modes_are_put_back() -> None:
    model = tiny("gpt2").train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    first = token_losses(model, sequences())  # GPT-2 has dropout: in training mode this would vary
    assert [module.training for module in model.modules()] == before
    for one, other in zip(first, token_losses(model, sequences()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.lm_head._forward_pre_hooks
    assert not model.lm_head._forward_hooks


def test_nothing_to_predict() -> None:
    model = tiny("llama")
    assert token_losses(model, []) == []
    found = token_losses(model, [[], [5], [3, 4]], [[], [5], [3, -100]])
    assert [len(losses) for losses in found] == [0, 1, 2]
    assert all(np.isnan(losses).all() for losses in found)


def test_a_model_that_changes_its_logits_is_refused() -> None:
    model = tiny("llama")
    model.register_forward_hook(lambda _, __, out: setattr(out, "logits", out.logits**3) or out)
    with pytest.raises(UnsupportedModelError, match="between its head and its logits"):
        token_losses(model, sequences())


def test_a_model_that_sees_the_future_is_refused() -> None:
    model = tiny("llama")
    model.model.register_forward_hook(
        lambda _, __, out: setattr(out, "last_hidden_state", out.last_hidden_state.flip(1)) or out
    )
    with pytest.raises(UnsupportedModelError, match="tokens after it"):
        token_losses(model, sequences())


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([[1, 2]], [[1, 2], [3]], "labels holds 2 sequences"),
        ([[1, 2]], [[1, 2, 3]], r"labels\[0\] holds 3 labels for 2 tokens"),
        ([[1, 2], [1, VOCAB]], None, rf"input_ids\[1\] holds the id {VOCAB}"),
        ([[1, 2, 3]], [[1, 2, -7]], r"labels\[0\] holds the id -7"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    rows: list[list[int]], labels: list[list[int]] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        token_losses(tiny("llama"), rows, labels)


def test_a_head_with_an_adapter_is_called_as_it_is() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(tiny("cohere"), config)
    rows = sequences()
    for got, want in zip(token_losses(model, rows), reference(model, rows, rows), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    with model.disable_adapter():
        plain = token_losses(model, rows)
    for got, want in zip(plain, token_losses(tiny("cohere"), rows), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
