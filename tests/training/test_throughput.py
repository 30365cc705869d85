from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from bequest.training.throughput import flops_per_token, peak_flops


def counted(config: object, block_length: int) -> float:
    """The FLOPs of a forward and a backward pass by torch's own counter, a token."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.zeros(1, block_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops() / block_length


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_dim", [8, 16])
def test_llama(tied: bool, head_dim: int) -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3, head_dim=head_dim,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    # Norms multiply, but not as matrices do: six times a few hundred parameters.
    assert flops_per_token(model, 40) == pytest.approx(counted(config, 40), rel=0.02)


def test_gpt2() -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert flops_per_token(model, 40) == pytest.approx(counted(config, 40), rel=0.05)


def test_experts_are_left_out() -> None:
    config = MixtralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert flops_per_token(model, 40) is None


def test_a_cpu_is_measured() -> None:
    peak, how = peak_flops(torch.device("cpu"), torch.float32)
    assert peak > 1e8 and "measured" in how and "float32" in how
