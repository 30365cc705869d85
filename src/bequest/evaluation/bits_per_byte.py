"""Bits per byte of a causal language model on texts: a loss that models of any tokenizer share."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError
from bequest.losses.head import NonFiniteLogitsError
from bequest.losses.token_losses import IGNORED, token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, eq=False)
class BitsPerByte:
    """What a model's predictions of some texts cost, text by text and as one number."""

    nats_per_text: NDArray[np.float64]
    """Negative log-likelihood of each text's tokens, in nats; infinite where a loss is no number."""
    bytes_per_text: NDArray[np.int64]
    """Length of each text in UTF-8."""
    tokens_per_text: NDArray[np.int64]
    """Tokens predicted in each text: all of them."""

    @property
    def nats(self) -> float:
        """Negative log-likelihood of all texts, in nats."""
        return float(self.nats_per_text.sum())

    @property
    def bytes(self) -> int:
        """Length of all texts in UTF-8."""
        return int(self.bytes_per_text.sum())

    @property
    def tokens(self) -> int:
        """Tokens predicted in all texts."""
        return int(self.tokens_per_text.sum())

    @property
    def bits_per_byte(self) -> float:
        """`nats / (ln 2 * bytes)`: long texts count for more, a text's tokens do not."""
        return self.nats / (math.log(2) * self.bytes)

    @property
    def standard_error(self) -> float | None:
        """Standard error of `bits_per_byte`, the texts being a sample.

        None for a single text, and where `bits_per_byte` is infinite.

        The error of a ratio of two sums to first order (Cochran, Sampling Techniques, 3rd ed.,
        eq. 6.13): with residuals `d_i = bits_i - bits_per_byte * bytes_i` over n texts,
        `sqrt(n / (n - 1) * sum d_i^2) / bytes`.
        """
        count = len(self.bytes_per_text)
        if count < 2 or not math.isfinite(self.nats):
            return None
        bits = self.nats_per_text / math.log(2)
        residuals = bits - self.bits_per_byte * self.bytes_per_text
        return math.sqrt(count / (count - 1) * float(residuals @ residuals)) / self.bytes


@dataclass(frozen=True)
class Window:
    """A stretch `[start, end)` of a text's tokens, of which those from `scored` on are scored."""

    start: int
    scored: int
    end: int


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    window_bytes: int = 4096,
    overlap_bytes: int = 1024,
    prefix_token_id: int | None = None,
    tokens_per_batch: int = 4096,
    progress: bool = False,
    spool: Path | None = None,
) -> BitsPerByte:
    """Measure how many bits the model needs for a byte of the texts, every byte counted once.

    Each text is tokenized whole, without special tokens of the tokenizer's own; what looks like a
    special token in the text is spelled out like other text. The tokens are cut into windows. The
    first window is scored whole; every later one repeats the last tokens before it as context and
    scores what follows; the last one reaches back so far that it is as long as the others. Before
    each window stands one token that is read and not scored, so that the first token of a text has
    something to be predicted from too: the tokenizer's beginning-of-sequence token, or else its
    end-of-sequence token.

    The windows are given in bytes and turned into tokens by the text's own tokens per byte, so
    that models of different tokenizers see the same length of text before what they predict.
    Compare only numbers of the same `window_bytes` and `overlap_bytes`: more context, fewer bits.

    Args:
        model: a causal language model; it runs on its device and in its dtype.
        tokenizer: the model's own.
        texts: any number of texts; empty ones cost and count nothing.
        window_bytes: text in a window, its context included, in UTF-8 bytes.
        overlap_bytes: how much of it a later window repeats as context, in UTF-8 bytes.
        prefix_token_id: the token before each window, instead of the tokenizer's.
        tokens_per_batch: the most tokens, padding included, that run through the model at once.
        progress: show a progress bar.
        spool: a folder for finished batches, as in `token_losses`; the caller removes it.

    Raises:
        InputError: there is no text; the windows are impossible, or longer than the model's
            positions; the tokenizer has no token to begin with, or loses characters of a text
            (what it does not spell it would not have to predict).
    """
    if isinstance(texts, str):
        raise InputError("texts must be a sequence of texts, got one str; pass [text]")
    if not 0 <= overlap_bytes < window_bytes:
        raise InputError(
            f"overlap_bytes must be at least 0 and below window_bytes ({window_bytes}), "
            f"got {overlap_bytes}"
        )
    prefix = _prefix_token(tokenizer) if prefix_token_id is None else prefix_token_id
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    if not sizes.sum():
        raise InputError("texts hold not one byte; give at least one text that is not empty")

    tokens_of = [spell(tokenizer, text, f"texts[{row}]") for row, text in enumerate(texts)]
    input_ids, labels, text_of = [], [], []
    for row, (tokens, size) in enumerate(zip(tokens_of, sizes.tolist(), strict=True)):
        for window in plan_windows(len(tokens), size, window_bytes, overlap_bytes):
            context = tokens[window.start : window.scored]
            scored = tokens[window.scored : window.end]
            input_ids.append([prefix, *context, *scored])
            labels.append([IGNORED] * (1 + len(context)) + scored)
            text_of.append(row)
    _check_room(model, input_ids)

    nats = np.zeros(len(texts))
    try:
        losses = token_losses(
            model,
            input_ids,
            labels,
            tokens_per_batch=tokens_per_batch,
            progress=progress,
            spool=spool,
        )
    except NonFiniteLogitsError:
        losses = [np.full(len(own), np.nan, dtype=np.float32) for own in labels]
    for row, own, values in zip(text_of, labels, losses, strict=True):
        nats[row] += values[np.asarray(own) != IGNORED].sum(dtype=np.float64)
    # A model whose logits are no numbers predicts nothing, which no number of bits makes good.
    nats[~np.isfinite(nats)] = np.inf
    return BitsPerByte(
        nats_per_text=nats,
        bytes_per_text=sizes,
        tokens_per_text=np.array([len(tokens) for tokens in tokens_of], dtype=np.int64),
    )


def plan_windows(
    num_tokens: int, num_bytes: int, window_bytes: int, overlap_bytes: int
) -> Iterator[Window]:
    """Cut a text's tokens into windows that score every token exactly once.

    Args:
        num_tokens: how many tokens the text has.
        num_bytes: how long it is in UTF-8.
        window_bytes: text in a window, which is turned into tokens at `num_tokens / num_bytes`.
        overlap_bytes: text that a window repeats from before what it scores, likewise.
    """
    if not num_tokens:
        return
    tokens_per_byte = num_tokens / num_bytes
    length = max(1, round(window_bytes * tokens_per_byte))
    step = max(1, length - round(overlap_bytes * tokens_per_byte))
    done = 0
    while done < num_tokens:
        end = min(done + step if done else length, num_tokens)
        yield Window(start=max(0, end - length), scored=done, end=end)
        done = end


def _prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        "tokenizer has neither a beginning- nor an end-of-sequence token for the first token of a "
        "text to be predicted from; give prefix_token_id"
    )


def spell(tokenizer: PreTrainedTokenizerBase, text: str, name: str) -> list[int]:
    """Tokenize one text and make sure that the tokens say all of it.

    Args:
        tokenizer: adds no special tokens, and spells out what looks like one.
        text: up to composition of characters and space at the ends, the tokens decode to it.
        name: what messages call the text.

    Raises:
        InputError: the tokenizer loses characters of the text.
    """
    tokens: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    wanted = _comparable(text)
    said = _comparable(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
    if said != wanted:
        raise InputError(
            f"{name} cannot be spelled by the tokenizer ({_first_difference(wanted, said)}), so "
            "its bits per byte would come out too low; leave the text out or take another tokenizer"
        )
    return tokens


def _comparable(text: str) -> str:
    """The text up to what sound tokenizers change: Unicode's composition and space at the ends."""
    return unicodedata.normalize("NFKC", text).strip()


def _first_difference(wanted: str, said: str) -> str:
    place = next(
        (place for place, pair in enumerate(zip(wanted, said, strict=False)) if pair[0] != pair[1]),
        min(len(wanted), len(said)),
    )
    return f"{wanted[place : place + 12]!r} becomes {said[place : place + 12]!r}"


def _check_room(model: PreTrainedModel, input_ids: Sequence[Sequence[int]]) -> None:
    # Models without positions (state-space models, ALiBi) have no such limit.
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, input_ids))
    if room is not None and longest > room:
        raise InputError(
            f"window_bytes gives windows of {longest} tokens, but the model has {room} positions; "
            "take a smaller window_bytes, for all models that are compared"
        )
