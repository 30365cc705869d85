from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import BitsPerByte, bits_per_byte, plan_windows

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "Größe, naïveté, 東京 — and a tab\tand\n\ntwo new lines.",
    "x",
    "",
    "One more text, a little longer than the others, so that it falls into several windows: " * 3,
]


def byte_tokenizer(vocabulary: int = 300, **settings: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on the texts; 258 means bytes and two special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    settings = settings or {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def small_model(vocabulary: int = 300, positions: int = 512) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def reference_nats(
    model: PreTrainedModel, tokens: list[int], prefix: int, length: int, overlap: int
) -> float:
    """Every token by a forward pass of its own, its window found by a formula, in float64."""
    total = 0.0
    for position in range(len(tokens)):
        if position < length:
            start = 0
        else:
            step = length - overlap
            windows_before = (position - length) // step
            end = min(length + (windows_before + 1) * step, len(tokens))
            start = end - length
        read = torch.tensor([[prefix, *tokens[start:position]]])
        with torch.no_grad():
            logits = model(input_ids=read).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[tokens[position]])
    return total


@pytest.mark.parametrize(("window", "overlap"), [(4096, 1024), (40, 10), (40, 0), (25, 24)])
def test_equals_a_slow_reference(window: int, overlap: int) -> None:
    model, tokenizer = small_model().double(), byte_tokenizer()
    result = bits_per_byte(model, tokenizer, TEXTS, window_bytes=window, overlap_bytes=overlap)
    expected_bytes = [len(text.encode("utf-8")) for text in TEXTS]
    assert result.bytes_per_text.tolist() == expected_bytes
    for row, text in enumerate(TEXTS):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert result.tokens_per_text[row] == len(tokens)
        if tokens:
            length = max(1, round(window * len(tokens) / expected_bytes[row]))
            context = min(round(overlap * len(tokens) / expected_bytes[row]), length - 1)
            nats = reference_nats(model, tokens, tokenizer.bos_token_id, length, context)
            assert result.nats_per_text[row] == pytest.approx(nats, rel=1e-6)
    assert result.nats_per_text[TEXTS.index("")] == 0
    assert result.bits_per_byte == pytest.approx(
        result.nats_per_text.sum() / math.log(2) / sum(expected_bytes), rel=1e-12
    )
    assert result.bytes == sum(expected_bytes)
    assert result.tokens == result.tokens_per_text.sum()


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token() -> None:
    model = small_model()
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    for vocabulary in (258, 300):
        tokenizer = byte_tokenizer(vocabulary)
        result = bits_per_byte(model, tokenizer, TEXTS, window_bytes=30, overlap_bytes=10)
        bits = math.log2(300) * result.tokens / result.bytes
        assert result.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert result.tokens < result.bytes, "the larger vocabulary merges bytes"


@given(
    num_tokens=st.integers(0, 300),
    bytes_per_token=st.floats(0.3, 8),
    window=st.integers(1, 200),
    data=st.data(),
)
def test_windows_score_every_token_once_with_enough_context(
    num_tokens: int, bytes_per_token: float, window: int, data: st.DataObject
) -> None:
    num_bytes = max(1, round(num_tokens * bytes_per_token))
    overlap = data.draw(st.integers(0, window - 1))
    windows = list(plan_windows(num_tokens, num_bytes, window, overlap))
    scored = [position for found in windows for position in range(found.scored, found.end)]
    assert scored == list(range(num_tokens))
    length = max(1, round(window * num_tokens / num_bytes))
    context = min(round(overlap * num_tokens / num_bytes), length - 1)
    for found in windows:
        assert 0 <= found.start <= found.scored < found.end
        assert found.end - found.start == min(length, num_tokens)
        assert found.start == 0 or found.scored - found.start >= context


def test_the_standard_error_is_that_of_resampled_texts() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(500, 5000, size=200)
    nats = sizes * random.normal(0.8, 0.1, size=200)
    result = BitsPerByte(
        nats_per_text=nats, bytes_per_text=sizes, tokens_per_text=np.ones(200, dtype=np.int64)
    )
    picks = random.integers(0, 200, size=(4000, 200))
    resampled = nats[picks].sum(1) / sizes[picks].sum(1) / math.log(2)
    assert result.standard_error == pytest.approx(resampled.std(), rel=0.05)


def test_one_text_has_no_standard_error() -> None:
    assert bits_per_byte(small_model(), byte_tokenizer(), TEXTS[:1]).standard_error is None


def test_special_tokens_in_a_text_are_text() -> None:
    tokenizer = byte_tokenizer(258)
    result = bits_per_byte(small_model(), tokenizer, ["a</s>b"])
    assert result.tokens == 6


def test_the_prefix_is_bos_else_eos_else_given() -> None:
    model = small_model()
    of_bos = bits_per_byte(model, byte_tokenizer(), TEXTS, prefix_token_id=0).nats
    of_eos = bits_per_byte(model, byte_tokenizer(), TEXTS, prefix_token_id=1).nats
    assert of_bos != of_eos
    assert bits_per_byte(model, byte_tokenizer(), TEXTS).nats == of_bos
    assert bits_per_byte(model, byte_tokenizer(eos_token="</s>"), TEXTS).nats == of_eos
    without = byte_tokenizer(pad_token="<s>")
    with pytest.raises(InputError, match="give prefix_token_id"):
        bits_per_byte(model, without, TEXTS)


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match=r"texts\[0\] cannot be spelled .*'The quick br' becomes"):
        bits_per_byte(small_model(), tokenizer, TEXTS)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    unknowing = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="x", unk_token="<unk>")
    with pytest.raises(InputError, match=r"texts\[1\] cannot be spelled"):
        bits_per_byte(small_model(), unknowing, ["x", "y"])


def test_bad_requests_are_named() -> None:
    model, tokenizer = small_model(positions=32), byte_tokenizer()
    with pytest.raises(InputError, match=r"pass \[text\]"):
        bits_per_byte(model, tokenizer, "one text")
    for nothing in ([], [""]):
        with pytest.raises(InputError, match="not one byte"):
            bits_per_byte(model, tokenizer, nothing)
    for overlap in (-1, 64):
        with pytest.raises(InputError, match="overlap_bytes"):
            bits_per_byte(model, tokenizer, TEXTS, window_bytes=64, overlap_bytes=overlap)
    with pytest.raises(InputError, match=r"windows of \d+ tokens, but the model has 32 positions"):
        bits_per_byte(model, tokenizer, TEXTS)


def test_learned_positions_hold_exactly_the_window() -> None:
    """A window that fills the position table is scored, one token more is refused."""
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=1, n_positions=21)
    model, tokenizer = GPT2LMHeadModel(config).eval(), byte_tokenizer(258)
    text = "abcdefghij" * 5
    assert bits_per_byte(model, tokenizer, [text], window_bytes=20, overlap_bytes=5).tokens == 50
    with pytest.raises(InputError, match="22 tokens"):
        bits_per_byte(model, tokenizer, [text], window_bytes=21, overlap_bytes=5)


@pytest.mark.assets
def test_smollm2_reads_brown(smollm2_folder: Path, brown_folder: Path) -> None:
    lines = (brown_folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"][:1500] for line in lines[:3]]
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    result = bits_per_byte(model, tokenizer, texts, window_bytes=600, overlap_bytes=200)
    tokens = tokenizer.encode(texts[0])
    length = round(600 * len(tokens) / len(texts[0].encode()))
    overlap = round(200 * len(tokens) / len(texts[0].encode()))
    nats = reference_of_windows(model, tokens, tokenizer.bos_token_id, length, overlap)
    assert result.nats_per_text[0] == pytest.approx(nats, rel=1e-5)
    assert 0.9 < result.bits_per_byte < 1.6


def reference_of_windows(
    model: PreTrainedModel, tokens: list[int], prefix: int, length: int, overlap: int
) -> float:
    """The same cut by hand, with transformers' own logits: three windows of this text."""
    total, done = 0.0, 0
    while done < len(tokens):
        end = min(length if done == 0 else done + length - overlap, len(tokens))
        start = max(0, end - length)
        read = torch.tensor([[prefix, *tokens[start:end]]])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=read).logits[0].double(), -1)
        for position in range(done, end):
            total -= float(log_probs[position - start, tokens[position]])
        done = end
    return total


def test_a_loss_that_is_no_number_is_infinite() -> None:
    model = small_model()
    tokenizer = byte_tokenizer()
    sound = bits_per_byte(model, tokenizer, TEXTS)
    # A text in which one token is no number, from there on; too late for a first look to see.
    texts = ["say no: a" * 9, "say no: a" * 9 + "x" + "b", ""]
    token = tokenizer("x", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    found = bits_per_byte(model, tokenizer, texts)
    assert np.isfinite(found.nats_per_text[[0, 2]]).all() and found.nats_per_text[1] == math.inf
    assert found.bits_per_byte == math.inf and found.standard_error is None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    broken = bits_per_byte(model, tokenizer, TEXTS)
    assert broken.bits_per_byte == math.inf > sound.bits_per_byte
