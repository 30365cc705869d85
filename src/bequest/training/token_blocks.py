"""Documents as blocks of tokens: tokenized once, kept in a cache, read without copying.

The token stream is `EOS doc EOS doc ...`: the end-of-sequence token stands before every document.
A training block is `block_length` tokens of the stream; attention and positions run on across the
boundaries inside it, as in GPT-2's and the papers' own runs. Held-out blocks overlap by one token,
so that every token of every held-out document is predicted exactly once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from bequest.checkpoints.publish import staged_folder
from bequest.errors import InputError
from bequest.evaluation.bits_per_byte import spell
from bequest.training.documents import Documents
from bequest.training.samples import progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_LAYOUT = 1
"""Changes whenever the same documents would give other blocks."""
_WRITTEN_AT_ONCE = 1000

Ids = NDArray[np.uint16] | NDArray[np.uint32]


class TrainingBlocks(TorchDataset[dict[str, Tensor]]):
    """Blocks of a token stream in a file; each token of a block is a label too."""

    def __init__(self, stream: Ids, block_length: int) -> None:
        count = len(stream) // block_length
        self._blocks = stream[: count * block_length].reshape(count, block_length)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([row]).items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch at once: (B, block_length) int64 ids, and the same as labels."""
        ids = torch.from_numpy(self._blocks[list(rows)].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class HeldOutBlocks(TorchDataset[dict[str, Tensor]]):
    """Held-out documents as blocks that predict each of their tokens once.

    Args:
        stream: (S,) tokens, each document after an end-of-sequence token.
        tokens_per_document: (D,) how many of the stream's tokens each document has.
        bytes_per_document: (D,) its length in UTF-8.
        block_length: tokens of a block; the last one is padded.
    """

    def __init__(
        self,
        stream: Ids,
        tokens_per_document: NDArray[np.int64],
        bytes_per_document: NDArray[np.int64],
        block_length: int,
    ) -> None:
        self.tokens_per_document = tokens_per_document
        self.bytes_per_document = bytes_per_document
        step = block_length - 1
        count = -(-(len(stream) - 1) // step)
        self.is_scored = np.ones(len(stream), bool)
        """(S,) Whether a token of the stream is a document's, not the one before it."""
        starts = np.concatenate([[0], np.cumsum(tokens_per_document + 1)[:-1]])
        self.is_scored[starts] = False
        padded = np.full(count * step + 1, stream[0], np.int64)
        padded[: len(stream)] = stream
        labels = np.full(len(padded), IGNORED, np.int64)
        labels[: len(stream)][self.is_scored] = stream[self.is_scored]
        rows = np.arange(count)[:, None] * step + np.arange(block_length)
        self._ids, self._labels = torch.from_numpy(padded[rows]), torch.from_numpy(labels[rows])
        # The block before has predicted it already.
        self._labels[:, 0] = IGNORED

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids[row], "labels": self._labels[row]}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch at once: (B, block_length) int64 ids and labels."""
        chosen = list(rows)
        return {"input_ids": self._ids[chosen], "labels": self._labels[chosen]}

    def in_order(self, losses: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the losses of the documents' tokens, in the order of the documents.

        Args:
            losses: (N, block_length - 1), of each position but a block's first.
        """
        return losses.reshape(-1)[: len(self.is_scored) - 1][self.is_scored[1:]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBlocks:
    """What a run reads."""

    training: TrainingBlocks
    """What is trained on."""
    held_out: HeldOutBlocks
    """What is measured."""
    training_tokens: int
    """Tokens of the training stream, boundaries included."""


def as_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate: the blocks give whole batches."""
    return batch


def fingerprint(documents: Documents, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides the token streams."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    parts = (str(_LAYOUT), documents.fingerprint, str(tokenizer.eos_token_id), spelled)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cached(cache: Path, key: str) -> bool:
    """Return whether the token streams are in the cache."""
    return (cache / key / "about.json").is_file()


def write_streams(
    cache: Path,
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    progress: bool = False,
) -> str:
    """Tokenize documents into a cache, unless they are in it already, and return their key.

    Args:
        cache: folder of token streams, each in a folder named by its fingerprint.
        documents: what is tokenized, without special tokens of the tokenizer's own; what looks
            like one in a text is spelled out.
        tokenizer: with an end-of-sequence token.
        progress: show a bar.

    Raises:
        InputError: the tokenizer has no end-of-sequence token, or loses characters of a held-out
            document, whose bits per byte would then come out too low.
        StorageError: the disk is full or failed.
    """
    key = fingerprint(documents, tokenizer)
    if cached(cache, key):
        return key
    kind: Any = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    boundary = end_of_sequence(tokenizer)
    spelled = [
        spell(tokenizer, text, f"held-out document {row}")
        for row, text in enumerate(documents.held_out)
    ]
    with staged_folder(cache / key) as folder:
        stream = [np.array([boundary, *ids], kind) for ids in spelled]
        np.save(folder / "held_out.npy", np.concatenate(stream))
        np.save(folder / "held_out_tokens.npy", np.array([len(ids) for ids in spelled], np.int64))
        count = _write_training(folder, documents, tokenizer, boundary, kind, progress)
        about = {"training_tokens": count, "held_out_tokens": sum(map(len, spelled))}
        (folder / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return key


def open_blocks(cache: Path, key: str, documents: Documents, block_length: int) -> TokenBlocks:
    """Open token streams of the cache as blocks.

    Args:
        cache: the folder.
        key: from `write_streams`.
        documents: what was tokenized.
        block_length: tokens of a block.

    Raises:
        InputError: there is not one block of training text.
    """
    folder = cache / key
    training = np.load(folder / "training.npy", mmap_mode="r")
    blocks = TrainingBlocks(training, block_length)
    if not len(blocks):
        raise InputError(
            f"data has {len(training):,} tokens to train on, which is not one block of "
            f"{block_length}; give more text, or a smaller block_length"
        )
    held_out = HeldOutBlocks(
        np.load(folder / "held_out.npy"),
        np.load(folder / "held_out_tokens.npy"),
        documents.held_out_bytes,
        block_length,
    )
    return TokenBlocks(training=blocks, held_out=held_out, training_tokens=len(training))


def end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token between documents.

    Raises:
        InputError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(
            "tokenizer has no end-of-sequence token to put between documents; set its eos_token"
        )
    return int(tokenizer.eos_token_id)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts, without special tokens of the tokenizer's own."""
    found = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    ids: list[list[int]] = found["input_ids"]
    return ids


def _write_training(
    folder: Path,
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    boundary: int,
    kind: Any,
    progress: bool,
) -> int:
    """Tokenize with `datasets`, whose file is a scratch one, and write the tokens one after another."""
    field = documents.text_field
    scratch = folder / "tokenized.arrow"
    with progress_bars(progress):
        tokenized = documents.training.map(
            lambda batch: {"ids": tokenize(tokenizer, batch[field])},
            batched=True,
            remove_columns=documents.training.column_names,
            cache_file_name=str(scratch),
            load_from_cache_file=False,
            new_fingerprint=documents.fingerprint,
            desc="tokenize",
        )
    rows = tokenized.with_format("arrow")
    count = 0
    with (folder / "training.raw").open("wb") as raw:
        for batch in rows.iter(_WRITTEN_AT_ONCE):
            lists = batch["ids"].combine_chunks()
            lengths = np.asarray(lists.value_lengths())
            ends = np.cumsum(lengths)
            flat = np.asarray(lists.flatten())
            joined = np.insert(flat, ends - lengths, boundary).astype(kind)
            raw.write(joined.tobytes())
            count += len(joined)
    del rows, tokenized
    written = np.memmap(folder / "training.raw", kind, "r", shape=(count,))
    target = np.lib.format.open_memmap(folder / "training.npy", "w+", kind, (count,))
    for start in range(0, count, 1 << 24):
        target[start : start + (1 << 24)] = written[start : start + (1 << 24)]
    target.flush()
    del written, target
    (folder / "training.raw").unlink()
    scratch.unlink()
    return count
