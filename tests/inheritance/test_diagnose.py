"""Diagnosis of attention collapse, held to whole matrices, SVDs and whole models in float64."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bequest.errors import UnsupportedModelError
from bequest.inheritance.diagnose_anatomy import find_anatomy
from bequest.inheritance.diagnose_measure import joined, measure, unpacked
from bequest.inheritance.diagnose_ranks import attention_mass, attention_rank
from bequest.inheritance.diagnose_report import Diagnosis, propose_depth
from bequest.inheritance.diagnose_skip import check_leave_one_out, leave_one_out
from bequest.inheritance.diagnose_watch import attention_widths, watching_attention
from bequest.losses.head import find_head

LENGTH, WINDOW = 24, 6
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING_FULL = [WINDOW, LENGTH, WINDOW, LENGTH]
MODELS: dict[str, tuple[dict[str, Any], list[int | None]]] = {
    "llama": ({}, [LENGTH] * 4),
    "gpt2": ({}, [LENGTH] * 4),
    "opt": ({"word_embed_proj_dim": 32}, [LENGTH] * 4),
    "gpt_neox": ({}, [LENGTH] * 4),
    "bloom": ({}, [LENGTH] * 4),
    "mistral": ({"sliding_window": WINDOW}, [WINDOW] * 4),
    "gemma2": ({"sliding_window": WINDOW, "head_dim": 8}, SLIDING_FULL),
    "gpt_oss": (
        {"sliding_window": WINDOW, "head_dim": 8, "num_local_experts": 4},
        SLIDING_FULL,
    ),
    "mixtral": ({"num_local_experts": 4}, [LENGTH] * 4),
    "jamba": (
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
        [None, LENGTH, None, LENGTH],
    ),
    "minimax": (
        {"block_size": 32, "head_dim": 8, "num_local_experts": 2},
        [LENGTH, None, LENGTH, None],
    ),
    "lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, [None, LENGTH, None, LENGTH]),
}
"""Settings, and how far each block's tokens look back."""


def build(model_type: str, attention: str = "eager", **more: Any) -> PreTrainedModel:
    """A model with attention that is neither flat nor collapsed."""
    config = AutoConfig.for_model(
        model_type, **{**SMALL, **MODELS.get(model_type, ({},))[0], **more}
    )
    torch.manual_seed(0)
    # Only the experts' plain implementation runs in float64.
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, experts_implementation="eager"
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def sequences(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 96, (count, LENGTH), generator=generator)


def fewest(powers: Any, threshold: float) -> int:
    """How many of the largest powers hold a share of them, one after the other."""
    ordered = sorted((float(power) for power in powers), reverse=True)
    held, total = 0.0, sum(ordered)
    for number, power in enumerate(ordered, start=1):
        held += power
        if held >= threshold * total * (1 - 1e-13):
            return number
    raise AssertionError


def slow_rank(matrix: Any, threshold: float) -> int:
    return fewest(np.linalg.svd(matrix, compute_uv=False) ** 2, threshold)


def slow_mass(matrix: Any, threshold: float) -> int:
    return fewest((matrix**2).sum(axis=0), threshold)


@settings(max_examples=40)
@given(
    size=st.integers(1, 40),
    sharpness=st.floats(0, 30),
    threshold=st.floats(0.5, 0.99),
    seed=st.integers(0, 10**6),
)
def test_rank_and_mass_equal_the_svd(
    size: int, sharpness: float, threshold: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    hidden = torch.ones(size, size, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    ranks, masses = attention_rank(attention, threshold), attention_mass(attention, threshold)
    for place in np.ndindex(2, 3):
        assert ranks[place] == slow_rank(attention[place].numpy(), threshold)
        assert masses[place] == slow_mass(attention[place].numpy(), threshold)


def test_rank_and_mass_of_known_matrices() -> None:
    sink = torch.zeros(10, 10)
    sink[:, 0] = 1
    for matrix, rank, mass in [(sink, 1, 1), (torch.eye(10), 9, 9)]:
        assert (attention_rank(matrix), attention_mass(matrix)) == (rank, mass)
    # An orthogonal change of the tokens' order keeps the rank; one column does not stay one.
    turn = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q
    assert attention_rank(sink.double() @ turn) == 1 < attention_mass(sink.double() @ turn)


@pytest.mark.parametrize("model_type", MODELS)
def test_every_architecture_equals_whole_matrices_in_float64(model_type: str) -> None:
    model, input_ids = build(model_type), sequences()
    anatomy = find_anatomy(model, input_ids)
    widths = attention_widths(model, anatomy, input_ids[:2])
    assert list(widths) == MODELS[model_type][1]
    parts = [measure(model, anatomy, widths, some, 0.9) for some in (input_ids[:2], input_ids[2:])]
    made = joined(parts)
    with torch.no_grad():
        whole = model(
            input_ids=input_ids,
            output_attentions=True,
            output_hidden_states=True,
            use_cache=False,
        )
    # Of blocks without attention models list None, or a state, or nothing.
    shape = (3, 4, LENGTH, LENGTH)
    matrices = [found for found in whole.attentions if found is not None and found.shape == shape]
    expected = [block for block, width in enumerate(widths) if width is not None]
    assert len(matrices) == len(expected)
    for block, found in zip(expected, matrices, strict=True):
        own = found[..., : widths[block], : widths[block]].numpy()
        assert own.shape[1] == anatomy.attention[block].num_heads == 4  # type: ignore[union-attr]
        for row, head in np.ndindex(3, 4):
            assert made.ranks[block][row, head] == slow_rank(own[row, head], 0.9)
            assert made.masses[block][row, head] == slow_mass(own[row, head], 0.9)
    for block in range(3):  # What follows the last block has gone through the final norm.
        before, after = (whole.hidden_states[block + i].numpy() for i in range(2))
        cosine = (before * after).sum(-1) / (
            np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
        )
        assert made.influence[:, block] == pytest.approx(1 - cosine.mean(-1), abs=1e-6)
    heads = [0 if width is None else 4 for width in widths]
    again = unpacked(made.packed(), heads, 3)
    assert np.array_equal(again.influence, made.influence)
    assert all(map(np.array_equal, again.ranks + again.masses, made.ranks + made.masses))


@pytest.mark.parametrize("model_type", MODELS)
def test_loss_without_a_block_equals_running_all_others(model_type: str) -> None:
    model, input_ids = build(model_type), sequences(2)
    anatomy = find_anatomy(model, input_ids)
    blocks = list(anatomy.blocks)
    with torch.no_grad():
        head = find_head(model, input_ids[:1])
    check_leave_one_out(model, anatomy, head, input_ids[:1])
    losses = leave_one_out(model, anatomy, head, input_ids)
    assert list(anatomy.blocks) == blocks, "the blocks are back"

    def identity(_block: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for skipped in [None, *range(4)]:
        handles = []
        if skipped is not None:
            handles.append(blocks[skipped].register_forward_hook(identity, with_kwargs=True))
        with torch.no_grad():
            logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1].double()
        for handle in handles:
            handle.remove()
        chosen = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
        row = losses[0 if skipped is None else 1 + skipped]
        assert row == pytest.approx(-chosen.mean(-1).numpy(), rel=1e-5)


def test_no_attention_matrix_outlives_its_block() -> None:
    model, input_ids = build("llama"), sequences()
    anatomy = find_anatomy(model, input_ids)
    seen: list[weakref.ref[Tensor]] = []

    def look(_block: int, weights: Tensor) -> None:
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(weights))

    with torch.no_grad(), watching_attention(anatomy, look):
        model(input_ids=input_ids, use_cache=False)
    assert len(seen) == 4


def test_skipped_blocks_are_named() -> None:
    model, input_ids = build("jamba"), sequences()
    anatomy = find_anatomy(model, input_ids)
    assert anatomy.kinds == ("linear_attention", "full_attention") * 2
    diagnosis = diagnose_built(model, input_ids)
    assert diagnosis.skipped == (0, 2) and diagnosis.max_rank[0] is None
    rows = dict(tuple(row) for row in diagnosis.sections()[0].data["rows"][:9])
    assert rows["blocks without softmax attention, skipped"] == 2


def diagnose_built(model: PreTrainedModel, input_ids: Tensor) -> Diagnosis:
    anatomy = find_anatomy(model, input_ids)
    widths = attention_widths(model, anatomy, input_ids)
    return Diagnosis(
        model="built",
        kinds=anatomy.kinds,
        widths=widths,
        length=LENGTH,
        threshold=0.9,
        measures=measure(model, anatomy, widths, input_ids, 0.9),
    )


def test_a_collapsed_block_is_lazy() -> None:
    model, input_ids = build("gpt2", n_positions=64), sequences()
    for block in (2, 3):
        attention = model.transformer.h[block].attn
        torch.nn.init.zeros_(attention.c_attn.weight)
        torch.nn.init.zeros_(attention.c_attn.bias)
    flat = diagnose_built(model, input_ids)
    # Equal scores: the mean of all tokens before, whose rank is small but not one.
    assert all(rank is not None and 1.5 < rank < 5 for rank in flat.max_rank[2:])
    assert flat.lazy == ()

    def sink(_module: Any, _inputs: Any, output: Any) -> Any:
        weights = torch.zeros_like(output[1])
        weights[..., 0] = 1
        return (output[0], weights)

    for block in (2, 3):
        model.transformer.h[block].attn.register_forward_hook(sink)
    diagnosis = diagnose_built(model, input_ids)
    assert diagnosis.lazy == (2, 3) and diagnosis.max_rank[2:] == (1.0, 1.0)
    assert diagnosis.average_mass[2:] == (1.0, 1.0)
    assert diagnosis.proposal[0] == 2


@pytest.mark.parametrize(
    ("num_layers", "lazy", "depth", "said"),
    [
        (24, (), 12, "No block is lazy"),
        (24, tuple(range(18, 24)), 18, "Of the 6 blocks behind the first 18, 6 are lazy"),
        (24, (14, *range(16, 23)), 14, "Of the 10 blocks behind the first 14, 8 are lazy"),
        (24, (3, 12), 12, "nowhere in the majority"),
        (24, (23,), 23, "behind the first 23, 1 are lazy"),
        (1, (0,), 1, "nowhere in the majority"),
        (5, (), 3, "half of the 5"),
    ],
)
def test_the_proposed_depth(num_layers: int, lazy: tuple[int, ...], depth: int, said: str) -> None:
    proposed, reason = propose_depth(num_layers, lazy)
    assert proposed == depth and said in reason
    assert reason.count(".") == 1


def test_attention_that_is_not_shown_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="without returning its weights"):
        find_anatomy(build("llama", attention="sdpa"), sequences())


def test_attention_that_sees_the_future_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="after it"):
        find_anatomy(build("bert"), sequences())


def test_a_model_without_softmax_attention_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no block with softmax attention"):
        find_anatomy(build("mamba"), sequences())


def test_blocks_that_hand_on_more_than_hidden_states_are_refused() -> None:
    """Each block adds what the one before it left behind."""
    model, input_ids = build("llama"), sequences(1)
    anatomy = find_anatomy(model, input_ids)
    left: list[Tensor] = []

    def hand_on(_block: Any, _inputs: Any, output: Tensor) -> Tensor:
        added = output + left[-1] if left else output
        left.append(output)
        return added

    for block in anatomy.blocks:
        block.register_forward_hook(hand_on)
    with torch.no_grad():
        head = find_head(build("llama"), input_ids)
    with pytest.raises(UnsupportedModelError):
        check_leave_one_out(model, anatomy, head, input_ids)
