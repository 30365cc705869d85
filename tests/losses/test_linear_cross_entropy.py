from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from bequest.errors import InputError
from bequest.losses.linear_cross_entropy import weighted_linear_cross_entropy

TOKENS, HIDDEN, CLASSES = 37, 16, 61

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gemma": {"softcap": 3.0},
    "cohere": {"logit_scale": 0.0625},
    "granite-like": {"logit_scale": 1 / 8, "label_smoothing": 0.1},
    "biased": {"bias": True},
    "smoothed": {"label_smoothing": 0.2},
    "everything": {"bias": True, "softcap": 2.0, "logit_scale": 0.7, "label_smoothing": 0.1},
}


def reference(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    loss_weights: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
    label_smoothing: float = 0.0,
    normalizer: float = 1.0,
) -> Tensor:
    """The dense way, in float64, by the definition."""
    logits = F.linear(hidden_states, weight, bias) * (logit_scale or 1.0)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(
        logits.flatten(0, -2),
        labels.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=-100,
    )
    return (losses * loss_weights.flatten()).sum() / normalizer


def problem(
    head: dict[str, Any], seed: int = 0, tokens: int = TOKENS
) -> tuple[list[Tensor], dict[str, Any]]:
    """Float64 hidden states, head, labels, weights; some labels ignored, some weights zero."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=g, dtype=torch.float64)
    weight = torch.randn(CLASSES, HIDDEN, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (tokens,), generator=g)
    labels[torch.rand(tokens, generator=g) < 0.2] = -100
    loss_weights = torch.rand(tokens, generator=g, dtype=torch.float64)
    loss_weights[torch.rand(tokens, generator=g) < 0.2] = 0
    options = dict(head)
    if options.pop("bias", False):
        options["bias"] = torch.randn(CLASSES, generator=g, dtype=torch.float64)
    return [hidden, weight, labels, loss_weights], options


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype, copy=True).requires_grad_()


def evaluate(
    function: Any, inputs: list[Tensor], options: dict[str, Any], dtype: torch.dtype, **more: Any
) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of hidden states, head and bias, with inputs cast to `dtype`."""
    hidden, weight = (leaf(tensor, dtype) for tensor in inputs[:2])
    options = {**options, **more}
    leaves = [hidden, weight]
    if "bias" in options:
        options["bias"] = leaf(options["bias"], dtype)
        leaves.append(options["bias"])
    loss = function(hidden, weight, inputs[2], inputs[3], **options)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def rounded(inputs: list[Tensor], options: dict[str, Any], dtype: torch.dtype) -> Any:
    """The problem as the low precision sees it, held in float64 for the reference."""
    cast = [t.to(dtype).double() if t.is_floating_point() else t for t in inputs[:2]]
    bias = {"bias": options["bias"].to(dtype).double()} if "bias" in options else {}
    return [*cast, *inputs[2:]], {**options, **bias}


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-13),
        (torch.float32, 2e-6),
        (torch.bfloat16, 2e-2),
        (torch.float16, 3e-3),
    ],
)
def test_loss_and_gradients_are_those_of_the_dense_way(
    head: str, dtype: torch.dtype, tolerance: float
) -> None:
    inputs, options = problem(HEADS[head])
    inputs, options = rounded(inputs, options, dtype)
    expected, expected_grads = evaluate(reference, inputs, options, torch.float64, normalizer=7.0)
    loss, grads = evaluate(
        weighted_linear_cross_entropy,
        inputs,
        options,
        dtype,
        normalizer=7.0,
        logits_bytes=5 * CLASSES * dtype.itemsize,
    )
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert relative(loss, expected) < tolerance
    for found, want in zip(grads, expected_grads, strict=True):
        assert found.dtype == dtype
        assert relative(found, want) < tolerance


@settings(max_examples=40)
@given(
    rows=st.integers(1, 60),
    tokens=st.integers(0, 50),
    head=st.sampled_from(sorted(HEADS)),
    seed=st.integers(0, 1000),
)
def test_the_size_of_pieces_does_not_matter(rows: int, tokens: int, head: str, seed: int) -> None:
    inputs, options = problem(HEADS[head], seed, tokens)
    whole, whole_grads = evaluate(weighted_linear_cross_entropy, inputs, options, torch.float64)
    pieces, piece_grads = evaluate(
        weighted_linear_cross_entropy,
        inputs,
        options,
        torch.float64,
        logits_bytes=rows * CLASSES * 8,
    )
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)
    for found, want in zip(piece_grads, whole_grads, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-12)


def test_half_precision_sums_many_tokens_in_float32() -> None:
    # 4096 equal contributions: a bfloat16 sum over pieces would stop growing at 256 of them.
    hidden = torch.ones(4096, 4, dtype=torch.bfloat16)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(4096, dtype=torch.int64)
    loss = weighted_linear_cross_entropy(hidden, weight, labels, logits_bytes=8)
    loss.backward()
    assert weight.grad is not None
    expected = torch.full((4, 4), 1024.0)
    expected[0] = -3072.0
    torch.testing.assert_close(weight.grad.float(), expected)


def test_tiny_weights_survive_half_precision() -> None:
    inputs, options = problem({})
    inputs[3] = inputs[3] * 1e-9
    inputs, options = rounded(inputs, options, torch.float16)
    _, expected = evaluate(reference, inputs, options, torch.float64)
    hidden = leaf(inputs[0], torch.float16)
    loss = weighted_linear_cross_entropy(hidden, inputs[1].half(), inputs[2], inputs[3])
    (loss * 2.0**30).backward()  # as a gradient scaler does
    assert hidden.grad is not None
    assert relative(hidden.grad.double() / 2.0**30, expected[0]) < 3e-3


def test_the_gradient_from_above_scales_all() -> None:
    inputs, options = problem(HEADS["everything"])
    _, once = evaluate(weighted_linear_cross_entropy, inputs, options, torch.float64)
    _, thrice = evaluate(
        lambda *args, **kwargs: -3 * weighted_linear_cross_entropy(*args, **kwargs) + 1,
        inputs,
        options,
        torch.float64,
    )
    for found, want in zip(thrice, once, strict=True):
        torch.testing.assert_close(found, -3 * want)


def test_autograd_agrees_by_finite_differences() -> None:
    inputs, options = problem(HEADS["everything"], tokens=7)
    hidden, weight = (tensor.requires_grad_() for tensor in inputs[:2])
    bias = options.pop("bias").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w, b: weighted_linear_cross_entropy(h, w, *inputs[2:], b, **options),
        (hidden, weight, bias),
    )


def test_a_tied_weight_gets_both_gradients() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(CLASSES, HIDDEN, dtype=torch.float64)
    ids, labels = torch.randint(0, CLASSES, (2, 3, 9))
    weights = torch.rand(3, 9, dtype=torch.float64)
    grads = []
    for function in (weighted_linear_cross_entropy, reference):
        embedding.weight.grad = None
        function(torch.tanh(embedding(ids)), embedding.weight, labels, weights).backward()
        grads.append(embedding.weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_non_contiguous_inputs_of_any_shape() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(HIDDEN, 5, 4, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    weight = torch.randn(HIDDEN, CLASSES, dtype=torch.float64).t().requires_grad_()
    labels = torch.randint(0, CLASSES, (5, 4)).t()
    weights = torch.rand(5, 4, dtype=torch.float64).t()
    expected = torch.autograd.grad(reference(hidden, weight, labels, weights), (hidden, weight))
    loss = weighted_linear_cross_entropy(hidden, weight, labels, weights)
    for found, want in zip(torch.autograd.grad(loss, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize("frozen", ["hidden_states", "weight", "both"])
def test_what_is_frozen_gets_no_gradient_and_no_product(frozen: str) -> None:
    (hidden, weight, labels, weights), _ = problem({})
    hidden.requires_grad_(frozen not in ("hidden_states", "both"))
    weight.requires_grad_(frozen not in ("weight", "both"))
    products: list[tuple[int, ...]] = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function in (torch.mm, Tensor.addmm_):
                products.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    with Counting():
        loss = weighted_linear_cross_entropy(hidden, weight, labels, weights)
    assert len(products) == {"hidden_states": 2, "weight": 2, "both": 1}[frozen]
    assert loss.requires_grad == (frozen != "both")
    with torch.no_grad(), Counting():
        products.clear()
        weighted_linear_cross_entropy(hidden, weight, labels, weights)
    assert len(products) == 1


def test_tokens_without_weight_are_never_looked_at() -> None:
    (hidden, weight, labels, weights), _ = problem({})
    idle = (labels == -100) | (weights == 0)
    clean = weighted_linear_cross_entropy(hidden, weight, labels, weights)
    hidden = torch.where(idle[:, None], torch.nan, hidden).requires_grad_()
    loss = weighted_linear_cross_entropy(hidden, weight, labels, weights)
    loss.backward()
    assert loss == clean
    assert hidden.grad is not None
    assert (hidden.grad[idle] == 0).all()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_at_all_is_a_loss_of_zero_that_can_be_differentiated(dtype: torch.dtype) -> None:
    hidden = torch.randn(4, HIDDEN, dtype=dtype, requires_grad=True)
    weight = torch.randn(CLASSES, HIDDEN, dtype=dtype, requires_grad=True)
    loss = weighted_linear_cross_entropy(hidden, weight, torch.full((4,), -100))
    loss.backward()
    assert loss == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((3, 2), 300.0, requires_grad=True)
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 0.5]])
    labels = torch.tensor([0, 1, 2])
    loss = weighted_linear_cross_entropy(hidden, weight, labels)
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.0 + 1200.0 + 150.0)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_autocast_casts_as_a_linear_layer_does() -> None:
    inputs, _ = problem({})
    hidden, weight = (tensor.float().requires_grad_() for tensor in inputs[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = weighted_linear_cross_entropy(hidden, weight, *inputs[2:])
    loss.backward()
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    other = weighted_linear_cross_entropy(half[0], half[1], *inputs[2:])
    other.backward()
    assert loss == other
    for full, low in zip((hidden, weight), half, strict=True):
        assert full.grad is not None
        assert full.grad.dtype == torch.float32
        assert low.grad is not None
        torch.testing.assert_close(full.grad, low.grad.float())


def test_a_graph_that_is_kept_can_be_gone_through_again() -> None:
    (hidden, weight, labels, weights), _ = problem({})
    loss = weighted_linear_cross_entropy(hidden.requires_grad_(), weight, labels, weights)
    (first,) = torch.autograd.grad(loss, hidden, 5 * torch.ones(()), retain_graph=True)
    (second,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(first, 5 * second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, hidden)


def good() -> dict[str, Any]:
    return {
        "hidden_states": torch.zeros(3, 2),
        "weight": torch.zeros(5, 2),
        "labels": torch.tensor([0, 4, -100]),
        "loss_weights": torch.ones(3),
        "bias": torch.zeros(5),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": torch.zeros(5, 3)}, "weight has the shape"),
        ({"weight": torch.zeros(5, 2).double()}, "weight is torch.float64"),
        ({"labels": torch.tensor([0, 1])}, "labels has the shape"),
        ({"labels": torch.tensor([0, 5, 1])}, "labels hold 5"),
        ({"labels": torch.tensor([0, -1, 1])}, "labels hold -1"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0])}, "labels are torch.float32"),
        ({"loss_weights": torch.ones(4)}, "loss_weights has the shape"),
        ({"loss_weights": torch.ones(3, requires_grad=True)}, "detach them"),
        ({"bias": torch.zeros(4)}, "bias has the shape"),
        ({"softcap": 0.0}, "softcap is 0.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"normalizer": 0.0}, "normalizer is 0.0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(wrong: dict[str, Any], message: str) -> None:
    assert weighted_linear_cross_entropy(**good()).isfinite()
    with pytest.raises(InputError, match=message):
        weighted_linear_cross_entropy(**{**good(), **wrong})
