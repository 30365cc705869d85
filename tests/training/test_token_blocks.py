from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EvalPrediction, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from bequest.errors import InputError
from bequest.training.documents import Documents, read_documents
from bequest.training.held_out_losses import (
    HeldOutLosses,
    HeldOutMeter,
    read_losses,
    save_losses,
)
from bequest.training.text_source import TextSource
from bequest.training.token_blocks import TokenBlocks, cached, open_blocks, write_streams
from bequest.training.tokenizer_training import END_OF_TEXT, train_tokenizer
from training.tiny_pretraining import texts


def documents(lines: list[str]) -> Documents:
    return read_documents(
        TextSource(data=Dataset.from_dict({"text": lines})),
        text_field="text",
        sample_by="document",
        held_out=None,
        held_out_fraction=0.3,
        held_out_bytes=10**9,
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(texts(), 270)


def blocks_of(
    cache: Path, lines: list[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> TokenBlocks:
    found = documents(lines)
    return open_blocks(cache, write_streams(cache, found, tokenizer), found, length)


def spelled(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> list[int]:
    stream: list[int] = []
    for line in lines:
        stream += [tokenizer.eos_token_id, *tokenizer.encode(line, add_special_tokens=False)]
    return stream


def test_training_blocks_are_the_stream(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    found = documents(texts())
    stream = spelled(tokenizer, list(found.training_texts()))
    blocks = blocks_of(tmp_path, texts(), tokenizer, 7)
    assert blocks.training_tokens == len(stream)
    assert len(blocks.training) == len(stream) // 7
    batch = blocks.training.__getitems__(range(len(blocks.training)))
    assert batch["input_ids"].flatten().tolist() == stream[: len(stream) // 7 * 7]
    assert batch["labels"].equal(batch["input_ids"])
    assert blocks.training[2]["input_ids"].tolist() == stream[14:21]


def test_what_looks_like_the_boundary_is_spelled_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    lines = [f"{text} {END_OF_TEXT} abcd" for text in texts()]
    blocks = blocks_of(tmp_path, lines, tokenizer, 8)
    stream = np.load(next(tmp_path.glob("*/training.npy")))
    assert (stream == tokenizer.eos_token_id).sum() == len(documents(lines).training)
    assert blocks.held_out.bytes_per_document.sum() == documents(lines).held_out_bytes.sum()


def test_it_is_tokenized_once(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    key = write_streams(tmp_path, documents(texts()), tokenizer)
    assert cached(tmp_path, key)
    before = (tmp_path / key / "training.npy").stat().st_mtime_ns
    assert write_streams(tmp_path, documents(texts()), tokenizer) == key
    assert (tmp_path / key / "training.npy").stat().st_mtime_ns == before
    assert write_streams(tmp_path, documents(texts(31)), tokenizer) != key
    assert write_streams(tmp_path, documents(texts()), train_tokenizer(texts(), 271)) != key
    names = sorted(path.name for path in (tmp_path / key).iterdir())
    assert names == ["about.json", "held_out.npy", "held_out_tokens.npy", "training.npy"]


def test_too_little_text_for_a_block(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="not one block of 100000"):
        blocks_of(tmp_path, texts(), tokenizer, 100_000)


@pytest.mark.parametrize("length", [2, 5, 16, 300])
def test_each_held_out_token_is_measured_once(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, length: int
) -> None:
    """Against one forward pass a token, in float64, over exactly what it may see."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=270, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    lines = texts(8)
    found = documents(lines)
    stream = spelled(tokenizer, found.held_out)
    wanted, position = [], 0
    for text in found.held_out:
        for _ in tokenizer.encode(text, add_special_tokens=False):
            position += 1
            start = (position - 1) // (length - 1) * (length - 1)
            with torch.no_grad():
                scores = model(torch.tensor([stream[start:position]])).logits[0, -1]
            wanted.append(-scores.log_softmax(-1)[stream[position]].item())
        position += 1

    blocks = blocks_of(tmp_path, lines, tokenizer, length).held_out
    meter = HeldOutMeter(blocks, keep=1)
    per_position = []
    for row in range(len(blocks)):
        with torch.no_grad():
            scores = model(blocks[row]["input_ids"][None]).logits
        per_position.append(meter.token_losses(scores, blocks[row]["labels"][None]).numpy())
    metrics = meter(EvalPrediction(predictions=np.concatenate(per_position), label_ids=None))
    (measured,) = meter.measured
    np.testing.assert_allclose(measured.token_losses, wanted, rtol=1e-5)
    size = sum(len(text.encode()) for text in found.held_out)
    assert metrics["loss"] == pytest.approx(np.mean(wanted), rel=1e-6)
    assert metrics["bits_per_byte"] == pytest.approx(sum(wanted) / np.log(2) / size, rel=1e-6)


def test_the_standard_error_is_the_bootstraps() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(20, 60, 300)
    losses = np.concatenate(
        [random.gamma(2.0, 1.0, count) * random.gamma(9.0, 1 / 9) for count in tokens]
    ).astype(np.float32)
    measured = HeldOutLosses(
        token_losses=losses, tokens_per_document=tokens, bytes_per_document=4 * tokens
    )
    nats = measured.nats_per_document
    drawn = random.integers(0, 300, (4000, 300))
    spread = (nats[drawn].sum(1) / tokens[drawn].sum(1)).std()
    assert measured.loss_error == pytest.approx(spread, rel=0.05)
    assert measured.bits_per_byte_error == pytest.approx(spread / 4 / np.log(2), rel=0.05)


def test_losses_are_kept_in_a_file(tmp_path: Path) -> None:
    one = HeldOutLosses(
        token_losses=np.array([1.0, 2.0, 6.0], np.float32),
        tokens_per_document=np.array([2, 1]),
        bytes_per_document=np.array([5, 4]),
    )
    save_losses(tmp_path, {"trained": one, "lawa": one})
    read = read_losses(tmp_path)
    assert list(read) == ["trained", "lawa"]
    assert read["lawa"].metrics() == one.metrics() and one.loss == 3
    with pytest.raises(InputError, match="cannot be read"):
        read_losses(tmp_path / "nowhere")


def test_a_tokenizer_is_the_same_each_time_and_spells_everything(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert train_tokenizer(texts(), 270).backend_tokenizer.to_str() == (
        tokenizer.backend_tokenizer.to_str()
    )
    assert len(tokenizer) == 270
    for text in ("\x00 Größe\n\n\t12345 日本 🙂", *texts(3)):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    with pytest.raises(InputError, match=r"gives \d+ tokens at most"):
        train_tokenizer(["ab"], 400)
    with pytest.raises(InputError, match="at least 257"):
        train_tokenizer(texts(), 256)
