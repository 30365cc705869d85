"""A tiny chat model with a tokenizer of bytes, in a folder, and samples in each of TRL's forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: "
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def tokenizer_of_bytes(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({char: row for row, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def save_model(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Write a model whose losses differ from token to token, and its tokenizer."""
    tokenizer = tokenizer_of_bytes(template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PAIRS = [
    ("What is 2 + 2?", "4."),
    ("Name a colour.", "Blue, or green; it depends."),
    ("A prompt that is quite a bit longer than the others of its kind.", "Yes."),
    ("Ü?", "Größe"),
]


def _turns(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


FORMS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"{prompt} {answer}"} for prompt, answer in PAIRS],
    "prompt-completion": [{"prompt": a, "completion": " " + b} for a, b in PAIRS],
    "conversational": [{"messages": _turns(*pair) * 2} for pair in PAIRS],
    "conversational prompt-completion": [
        {"prompt": _turns(*pair)[:1], "completion": _turns(*pair)[1:]} for pair in PAIRS
    ],
    "from-value": [
        {"conversations": [{"from": "user", "value": a}, {"from": "assistant", "value": b}]}
        for a, b in PAIRS
    ],
    "tokenized": [
        {"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, 4]},
        {"input_ids": [5, 6], "labels": [-100, 6]},
    ],
}


def write_json_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
