"""The score file: what a pre-trained model made of every sample, and the weight that follows."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError

if TYPE_CHECKING:
    import pyarrow

FORMAT = "1"
"""Version of the file's format, in its metadata."""

_FORMAT_KEY, _METADATA_KEY = b"bequest_scores", b"bequest"
_COLUMNS = ("index", "loss", "num_tokens", "row_hash", "weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """A row for each sample of a data set, in the data set's order."""

    index: NDArray[np.int64]
    """Row of the sample in the data set."""
    loss: NDArray[np.float32]
    """Mean loss over the sample's response tokens, in nats; NaN where it has none."""
    num_tokens: NDArray[np.int32]
    """How many of its tokens are predicted: the response tokens that truncation left."""
    row_hash: NDArray[np.str_]
    """`row_hash` of its token ids and labels as they are trained on, after truncation."""
    weight: NDArray[np.float32]
    """Its weight; under a scheme of token weights the mean of its tokens' weights."""
    token_losses: Sequence[NDArray[np.float32]] | None
    """The losses of its `num_tokens` response tokens, in order; None if they were not kept."""
    metadata: Mapping[str, Any]
    """`model`, `revision`, `tokenizer`, `max_length`, `truncation_mode`, `scheme`, `temperature`
    (the number that was used, None where the scheme has none), `bequest_version` and others."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.index)


def row_hash(input_ids: ArrayLike, labels: ArrayLike) -> str:
    """Name a tokenized sample by what is trained on.

    BLAKE2b with a digest of 16 bytes over the token ids and then the labels, each as little-endian
    32-bit integers, in lower-case hexadecimal.

    Args:
        input_ids: the token ids after truncation, T of them.
        labels: the T labels, unshifted, -100 where nothing is predicted.

    Raises:
        InputError: there are not as many labels as token ids.
    """
    ids = np.asarray(input_ids, dtype="<i4")
    wanted = np.asarray(labels, dtype="<i4")
    if len(ids) != len(wanted):
        raise InputError(
            f"labels has {len(wanted)} values for {len(ids)} input_ids; give one label a token"
        )
    return hashlib.blake2b(ids.tobytes() + wanted.tobytes(), digest_size=16).hexdigest()


def read_scores(path: str | Path) -> ScoreTable:
    """Read a score file.

    Args:
        path: as `bequest score` wrote it.

    Raises:
        InputError: there is no such file, or it is no score file of this format.
    """
    import pyarrow
    import pyarrow.parquet

    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"scores {path} does not exist; make it with `bequest score`")
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"scores {path} cannot be read as parquet ({_first_line(error)}); "
            "make it again with `bequest score`"
        ) from error
    metadata = table.schema.metadata or {}
    if metadata.get(_FORMAT_KEY) != FORMAT.encode():
        found = metadata.get(_FORMAT_KEY, b"none").decode(errors="replace")
        raise InputError(
            f"scores {path} is no score file of format {FORMAT} (its format: {found}); "
            "make it with `bequest score`"
        )
    return _from_arrow(table, metadata, f"scores {path}")


def write_scores(path: str | Path, scores: ScoreTable) -> None:
    """Write a score file, whole or not at all; a file of that name is replaced.

    Args:
        path: its folder is made if it does not exist.
        scores: `metadata` is written as JSON.

    Raises:
        InputError: the arrays do not fit one another.
        StorageError: the file cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    _check(scores, "scores")
    columns: list[Any] = [getattr(scores, name) for name in _COLUMNS]
    with_tokens = scores.token_losses is not None
    if scores.token_losses is not None:
        offsets = np.concatenate([[0], np.cumsum(scores.num_tokens, dtype=np.int64)])
        values = np.concatenate([np.empty(0, np.float32), *scores.token_losses])
        columns.append(pyarrow.LargeListArray.from_arrays(offsets, values))
    metadata = {
        _FORMAT_KEY: FORMAT,
        _METADATA_KEY: json.dumps(dict(scores.metadata), allow_nan=False),
    }
    schema = _schema(with_tokens=with_tokens).with_metadata(metadata)
    table = pyarrow.table(
        [
            pyarrow.array(column, type=kind)
            for column, kind in zip(columns, schema.types, strict=True)
        ],
        schema=schema,
    )
    with whole_file(Path(path).expanduser()) as file:
        pyarrow.parquet.write_table(table, file)


def _schema(*, with_tokens: bool) -> pyarrow.Schema:
    import pyarrow

    kinds = [pyarrow.int64(), pyarrow.float32(), pyarrow.int32(), pyarrow.string()]
    fields = list(zip(_COLUMNS, [*kinds, pyarrow.float32()], strict=True))
    if with_tokens:
        # 64-bit offsets: a large data set has more than 2^31 tokens.
        fields.append(("token_losses", pyarrow.large_list(pyarrow.float32())))
    return pyarrow.schema(fields)


def _from_arrow(table: pyarrow.Table, metadata: Mapping[bytes, bytes], place: str) -> ScoreTable:
    import pyarrow

    with_tokens = "token_losses" in table.column_names
    try:
        table = table.cast(_schema(with_tokens=with_tokens))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is null")
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        token_losses = None
        if with_tokens:
            lists = table["token_losses"].combine_chunks()
            values = lists.values.to_numpy()
            offsets = lists.offsets.to_numpy()
            token_losses = [values[a:b] for a, b in itertools.pairwise(offsets.tolist())]
        scores = ScoreTable(
            **{**columns, "row_hash": columns["row_hash"].astype(np.str_)},
            token_losses=token_losses,
            metadata=json.loads(metadata.get(_METADATA_KEY, b"{}")),
        )
    except (pyarrow.ArrowException, ValueError) as error:
        raise InputError(
            f"{place} does not hold the columns of a score file ({_first_line(error)}); make it "
            "again with `bequest score`"
        ) from error
    _check(scores, place)
    return scores


def _check(scores: ScoreTable, place: str) -> None:
    lengths = {name: len(getattr(scores, name)) for name in _COLUMNS}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{place} has columns of different lengths: {lengths}")
    weight = scores.weight
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        raise InputError(
            f"{place}: weight of row {wrong[0]} is {weight[wrong[0]]}; weights must be finite and "
            "at least 0"
        )
    if scores.token_losses is not None:
        sizes = np.array([len(values) for values in scores.token_losses], dtype=np.int64)
        if not np.array_equal(sizes, scores.num_tokens):
            raise InputError(f"{place}: token_losses must hold num_tokens values in every row")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
