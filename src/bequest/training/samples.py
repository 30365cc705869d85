"""A data set to fine-tune on: read from a file, a folder or the hub, written with its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from bequest.checkpoints.whole_file import whole_file
from bequest.errors import BequestError, InputError
from bequest.evaluation.data_parts import is_saved, saved_part

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_samples(
    data: str | Path | Dataset,
    *,
    split: str = "train",
    name: str | None = None,
    field: str = "data",
    name_field: str = "data_name",
    split_field: str = "split",
) -> Dataset:
    """Read a data set.

    Args:
        data: a `.json`, `.jsonl` or `.parquet` file; a folder of such files, or one that
            `save_to_disk` wrote; a hub id; or a data set, which is returned as it is.
        split: which of its parts, as `datasets` names it, such as "train" or "train[:1000]".
        name: which configuration of a data set that has several.
        field: what the user calls `data`, for errors.
        name_field: what the user calls `name`.
        split_field: what the user calls `split`.

    Raises:
        InputError: there is nothing of that name, it cannot be read or holds no sample, it is
            streamed, or it has no such configuration or several to choose from.
    """
    if isinstance(data, str | Path):
        if name is not None and not _may_have_names(Path(data).expanduser()):
            raise nameless(name, str(data), name_field)
        with (
            explained(f"{field} {data} cannot be read"),
            _told_names(f"{field} {data}", name_field),
        ):
            read = _read(data, split, name, field, split_field)
    elif name is not None:
        raise nameless(name, "a data set in memory", name_field)
    else:
        read = data
    if not isinstance(read, Dataset):
        raise InputError(
            f"{field} is a {type(read).__name__}; give one split of a data set with rows that can be "
            "counted (streaming=False)"
        )
    if not len(read):
        raise InputError(f"{field} holds no sample; give at least one")
    return read


def nameless(name: str, what: str, name_field: str = "data_name") -> InputError:
    """Return the refusal of a configuration of data that has none.

    Args:
        name: the configuration.
        what: the data, in words.
        name_field: what the user calls `name`.
    """
    return InputError(f"{name_field} is {name!r}, but {what} has no configurations; leave it out")


def write_weighted(
    path: Path, samples: Dataset, name: str, values: Sequence[NDArray[np.float32]]
) -> None:
    """Write a data set with one more column, whole or not at all.

    Args:
        path: a file whose name ends in `.parquet` or `.jsonl`; it is replaced if it exists.
        samples: the N samples.
        name: of the column.
        values: N numbers or arrays.

    Raises:
        StorageError: the file cannot be written.
    """
    weighted = samples.add_column(name, [value.tolist() for value in values])
    with progress_bars(False), whole_file(path) as file:
        weighted.to_parquet(file) if path.suffix == ".parquet" else weighted.to_json(file)


def _read(data: str | Path, split: str, name: str | None, field: str, split_field: str) -> Any:
    path = Path(data).expanduser()
    with progress_bars(False):
        if path.is_file():
            if path.suffix not in _BUILDERS:
                raise InputError(
                    f"{field} {data} is no file of {', '.join(_BUILDERS)}; convert it, or name "
                    "another"
                )
            builder = _BUILDERS[path.suffix]
            return datasets.load_dataset(builder, data_files=str(path), split=split)
        if is_saved(path):
            return saved_part(path, split, f"{field} {data}", split_field=split_field)
        if not path.is_dir() and (
            isinstance(data, Path) or path.suffix in _BUILDERS or not _HUB_ID.fullmatch(data)
        ):
            raise InputError(f"{field} {data} does not exist; name a file, a folder or a hub id")
        return datasets.load_dataset(str(path) if path.is_dir() else str(data), name, split=split)


def _may_have_names(path: Path) -> bool:
    return not path.is_file() and path.suffix not in _BUILDERS and not is_saved(path)


@contextmanager
def _told_names(what: str, name_field: str) -> Iterator[None]:
    """Name the configurations of a data set of which one must be chosen."""
    try:
        yield
    except ValueError as error:
        # The library says on its second line which there are.
        lines = str(error).splitlines()
        if len(lines) < 2 or not lines[0].startswith("Config name is missing"):
            raise
        known = lines[1].rpartition(": ")[2].strip("[]").replace("'", "")
        raise InputError(
            f"{what} has several configurations; set {name_field} to one of {known}"
        ) from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever the data library raises into one sentence."""
    try:
        yield
    except (BequestError, MemoryError):
        raise
    except Exception as error:  # Readers, the hub's client and Arrow raise kinds of their own.
        # What the library says last is the cause; what it wraps that in says nothing.
        cause = error.__cause__ or error
        lines = str(cause).splitlines() or [type(cause).__name__]
        raise InputError(f"{what}: {lines[0].rstrip('.')}") from error


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show the bars of `datasets` inside, or hide them."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars() if shown else datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.disable_progress_bars() if hidden else datasets.enable_progress_bars()
