"""Parts of data that is at hand: `train[:1000]` of a saved data set or of one file, never ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict, ReadInstruction, concatenate_datasets, load_from_disk

from bequest.errors import InputError

_NAME = re.compile(r"\w+(\.\w+)*")
"""The part's own name in the spelling of a piece of it."""
ONLY = "train"
"""What the only part of some data is called, as `datasets` calls it."""


def is_saved(folder: Path) -> bool:
    """Say whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_part(
    folder: Path, split: str | None, field: str, *, split_field: str = "split"
) -> Dataset:
    """Read a part of what `save_to_disk` wrote.

    A data set that was saved without others is `train`; its own name, if it has one, is as good.

    Args:
        folder: for which `is_saved`.
        split: as for `chosen_part`.
        field: what the caller calls the data, for messages.
        split_field: what the caller calls `split`.

    Raises:
        InputError: there is no such part.
    """
    saved = load_from_disk(str(folder))
    if isinstance(saved, DatasetDict):
        parts = {str(name): rows for name, rows in saved.items()}
        return chosen_part(parts, split, field, split_field=split_field)
    return only_part(saved, str(saved.split), split, field, split_field=split_field)


def only_part(
    rows: Dataset,
    told: str,
    split: str | None,
    field: str,
    *,
    split_field: str = "split",
    unit: str = "rows",
) -> Dataset:
    """Choose from data that has one part: it is called `train`, and answers to names of its own.

    Args:
        rows: the data.
        told: what its own names are, or are words of, such as a file's name `cifar_test`.
        split: as for `chosen_part`.
        field: what the caller calls the data, for messages.
        split_field: what the caller calls `split`.
        unit: what a row is.

    Raises:
        InputError: it has no such part.
    """
    asked = _NAME.match(split or "")
    own = {told, *re.findall(r"\w+", told), *re.findall(r"[^\W_]+", told)}
    name = asked[0] if asked is not None and asked[0] in own else ONLY
    return chosen_part({name: rows}, split, field, split_field=split_field, unit=unit)


def chosen_part(
    parts: Mapping[str, Dataset],
    split: str | None,
    field: str,
    *,
    split_field: str = "split",
    unit: str = "rows",
) -> Dataset:
    """Choose a part, or a piece of one.

    Args:
        parts: all there are, by name.
        split: as `datasets` writes it, such as `test`, `train[:1000]`, `train[10%:]` or
            `train+test`; None takes the only one, or `test` where there are several.
        field: what the caller calls the data, for messages.
        split_field: what the caller calls `split`.
        unit: what a row is.

    Raises:
        InputError: there is no such part, or `split` is not written so.
    """
    if split is None:
        split = next(iter(parts)) if len(parts) == 1 else "test"
    lengths = {name: len(rows) for name, rows in parts.items()}
    try:
        pieces = ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        known = ", ".join(f"{name} ({length:,} {unit})" for name, length in lengths.items())
        raise InputError(
            f"{split_field} is {split!r}, but {field} has {known}; choose one, or a piece of it such "
            "as train[:1000] or train[90%:]"
        ) from error
    chosen = [
        parts[piece.splitname].select(range(piece.from_, piece.to) or range(0))
        if (piece.from_, piece.to) != (0, lengths[piece.splitname])
        else parts[piece.splitname]
        for piece in pieces
    ]
    return chosen[0] if len(chosen) == 1 else concatenate_datasets(chosen)
