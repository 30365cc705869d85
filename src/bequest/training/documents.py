"""Text to train on, document by document, and which documents are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from bequest.errors import InputError
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.text_source import TextSource, read_source

_READ_AT_ONCE = 1000
_LEAST_BYTES = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """What is trained on and what is held out, the latter never part of the former."""

    training: Dataset
    """The documents to train on, in the order of their source."""
    held_out: tuple[str, ...]
    """The texts that are measured, in the order of their documents' hashes."""
    text_field: str
    """The column with the text."""
    training_bytes: int
    """Length of all training documents in UTF-8."""
    held_out_bytes: NDArray[np.int64]
    """Length of each of these texts in UTF-8."""
    fingerprint: str
    """A hash of the texts of both, in their order."""

    def training_texts(self) -> Iterator[str]:
        """Give the training texts one by one."""
        for batch in self.training.select_columns(self.text_field).iter(_READ_AT_ONCE):
            yield from batch[self.text_field]


def asked_documents(
    config: PretrainConfig, *, data: Dataset | None = None, held_out: Dataset | None = None
) -> Documents:
    """Read the documents that a configuration names.

    Args:
        config: what is asked.
        data: a data set in memory, instead of `config.data`.
        held_out: likewise, instead of `config.held_out`.

    Raises:
        InputError: as `read_documents`.
    """
    whole: str | Dataset = config.data if data is None else data
    source = TextSource(data=whole, name=config.data_name, split=config.split)
    measured: str | Dataset | None = config.held_out if held_out is None else held_out
    name = config.held_out_name
    own = None
    if measured is not None or name is not None or config.held_out_split is not None:
        same = measured is None or (isinstance(measured, str) and measured == config.data)
        own = TextSource(
            data=whole if measured is None else measured,
            name=config.data_name if same and name is None else name,
            split=config.held_out_split or "train",
            field="data" if measured is None else "held_out",
            name_field="held_out_name",
            split_field="held_out_split",
        )
    return read_documents(
        source,
        text_field=config.text_field,
        sample_by=config.sample_by,
        held_out=own,
        held_out_fraction=config.held_out_fraction,
        held_out_bytes=config.held_out_bytes,
    )


def read_documents(
    data: TextSource,
    *,
    text_field: str,
    sample_by: str,
    held_out: TextSource | None,
    held_out_fraction: float,
    held_out_bytes: int,
) -> Documents:
    """Read documents and decide by a hash of each one's text whether it is held out.

    The hash depends on nothing else, so every model of a comparison, whatever its tokenizer, and
    every run on the same texts in any order, holds out the same documents; equal documents fall on
    one side.

    Args:
        data: what is trained on.
        text_field: the column with the text.
        sample_by: what of a text file is one document, `document`, `paragraph` or `line`.
        held_out: documents to hold out; those of them that `data` has too are not trained on. None
            holds out some of `data`.
        held_out_fraction: about which share of the documents of `data` is held out.
        held_out_bytes: how much held-out text is measured at most, in bytes: of long documents the
            beginnings, because many documents tell more than much of a few. Of documents beyond
            that, in the order of their hashes, nothing is measured; none of them is trained on.

    Raises:
        InputError: a source cannot be read, has no such column, or leaves one side empty.
    """
    whole = read_source(data, text_field=text_field, sample_by=sample_by)
    hashes, sizes = _hashes_and_sizes(whole, text_field)
    if held_out is None:
        chosen = hashes < np.uint64(min(held_out_fraction * 2.0**64, 2.0**64 - 2**11))
        measured, measured_hashes, measured_sizes = whole, hashes, sizes
        candidates = np.flatnonzero(chosen & (sizes > 0))
    else:
        measured = read_source(held_out, text_field=text_field, sample_by=sample_by)
        measured_hashes, measured_sizes = _hashes_and_sizes(measured, text_field)
        chosen = np.isin(hashes, measured_hashes)
        candidates = np.flatnonzero(measured_sizes > 0)
    training = np.flatnonzero(~chosen & (sizes > 0))
    if not len(candidates) or not len(training):
        side = "trained on" if len(candidates) else "held out"
        raise InputError(
            f"data has {int((sizes > 0).sum()):,} documents and none would be {side}; give more, "
            "a file for held_out, another held_out_fraction, or sample_by: paragraph"
        )
    # A copy of a document tells nothing new.
    _, first = np.unique(measured_hashes[candidates], return_index=True)
    candidates = candidates[first]
    limits = shared_out(measured_sizes[candidates], held_out_bytes)
    candidates = candidates[: len(limits)]
    whole_texts = measured.select(candidates)[text_field]
    cut = tuple(_beginning(text, size) for text, size in zip(whole_texts, limits, strict=True))
    cut_bytes = np.array([len(text.encode()) for text in cut], np.int64)
    parts = (hashes[training], measured_hashes[candidates], cut_bytes)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts))
    return Documents(
        training=whole.select(training),
        held_out=cut,
        text_field=text_field,
        training_bytes=int(sizes[training].sum()),
        held_out_bytes=cut_bytes,
        fingerprint=digest.hexdigest()[:16],
    )


def shared_out(sizes: NDArray[np.int64], budget: int) -> list[int]:
    """Share a number of bytes out over documents: short ones whole, of long ones equally much.

    Args:
        sizes: (D,) bytes of each document, the most important first.
        budget: bytes in all, unless the first document's least share is more.

    Returns:
        How much of each of the first documents to take: so many that each gets at least
        2,048 bytes, or all of itself.
    """
    least = np.minimum(sizes, _LEAST_BYTES)
    kept = max(1, int(np.searchsorted(np.cumsum(least), budget, "right")))
    ordered = np.sort(sizes[:kept])
    # If the i-th smallest were the highest share, so much would be given out.
    given = np.cumsum(ordered) + ordered * np.arange(kept - 1, -1, -1)
    whole = int(np.searchsorted(given, budget, "right"))
    left = budget - int(ordered[:whole].sum())
    share = ordered[-1] if whole == kept else max(_LEAST_BYTES, left // (kept - whole))
    return [min(int(size), int(share)) for size in sizes[:kept]]


def _beginning(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _hashes_and_sizes(
    read: Dataset, text_field: str
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    hashes = np.empty(len(read), np.uint64)
    sizes = np.empty(len(read), np.int64)
    row = 0
    for batch in read.iter(_READ_AT_ONCE):
        for text in batch[text_field]:
            if text is None:
                text = ""
            encoded = text.encode() if text.strip() else b""
            hashes[row] = int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big")
            sizes[row] = len(encoded)
            row += 1
    return hashes, sizes
