"""A tokenizer of a chosen size, trained on a run's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bequest.errors import InputError

END_OF_TEXT = "<|endoftext|>"
"""Its one special token: it stands before each document, and pads."""
LEAST = 257
"""A token for each byte, and the special one."""
_TRAINED_ON_BYTES = 200_000_000


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    max_bytes: int = _TRAINED_ON_BYTES,
    may_be_smaller: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, which can spell every text, as GPT-2's.

    Args:
        texts: what it is trained on; the same texts in the same order give the same tokenizer.
        vocab_size: its tokens, the special one included.
        max_bytes: it reads no more than about this much of the texts, in UTF-8.
        may_be_smaller: take as many tokens as the texts give, if they are fewer.

    Raises:
        InputError: the size is too small, or the texts do not give so many tokens.
    """
    check_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    # Numbers digit by digit in groups of three at most, as tokenizers of today do.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first_bytes(texts, max_bytes), trainer)
    if tokenizer.get_vocab_size() < vocab_size and not may_be_smaller:
        raise InputError(
            f"train_tokenizer is {vocab_size}, but the text gives {tokenizer.get_vocab_size()} tokens "
            "at most; set that, or give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def check_size(vocab_size: int) -> None:
    """Refuse a vocabulary that could not spell every text.

    Raises:
        InputError: it is too small.
    """
    if vocab_size < LEAST:
        raise InputError(f"train_tokenizer is {vocab_size}; give at least {LEAST} tokens")


def _first_bytes(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for text in texts:
        if left <= 0:
            return
        left -= len(text.encode())
        yield text
