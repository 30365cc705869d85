"""What the tests of FlowTrainer share: a tiny model, a tokenizer, tokenized samples, a run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from bequest.training.flow_trainer import FlowTrainer

VOCAB = 64


def tiny_model(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    """A llama whose losses differ much from sample to sample."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight *= 10.0
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Words `w3` to `w63`, and `<pad>`, `<bos>`, `<eos>`."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


@functools.cache
def samples(rows: int = 8, seed: int = 0) -> Dataset:
    """Tokenized samples of 5 to 14 tokens, of which the first few are a prompt.

    Every other token or so is the one that the model finds likeliest, so that losses spread.
    """
    generator = np.random.default_rng(seed)
    model = tiny_model().eval()
    input_ids, labels = [], []
    for row in range(rows):
        ids = [3]
        for _ in range(generator.integers(4, 14)):
            if generator.random() < row / rows:
                with torch.no_grad():
                    ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            else:
                ids.append(int(generator.integers(3, VOCAB)))
        input_ids.append(ids)
        prompt = row % 3  # some samples have no prompt: their first label is never predicted
        labels.append([-100] * prompt + ids[prompt:])
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})


def config(folder: Path, **options: Any) -> SFTConfig:
    """Plain gradient descent at rate 1 without clipping: what a step changes is the gradient."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "max_length": 32,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return SFTConfig(output_dir=str(folder), **{**settings, **options})


def trained(
    folder: Path,
    *,
    trainer: type[SFTTrainer] = FlowTrainer,
    model: Any = None,
    data: Dataset | None = None,
    args: dict[str, Any] | None = None,
    **options: Any,
) -> SFTTrainer:
    """Run a trainer on a fresh model."""
    run = trainer(
        model if model is not None else tiny_model(),
        config(folder, **(args or {})),
        train_dataset=samples() if data is None else data,
        processing_class=tokenizer(),
        **options,
    )
    run.train()
    return run


def parameters(run: SFTTrainer) -> dict[str, Tensor]:
    """The trained weights, by name."""
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def gap(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference between two models, by the largest size of a tensor's own values."""
    assert left.keys() == right.keys()
    return max(
        float((left[name] - right[name]).abs().max() / right[name].abs().max()) for name in left
    )


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two models are equal in every bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def losses(run: SFTTrainer) -> list[float]:
    """The logged training losses."""
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]
