"""Where text comes from: a file, a folder, the hub or memory, read as one column of documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset

from bequest.errors import InputError
from bequest.evaluation.data_parts import ONLY, is_saved, only_part
from bequest.training.samples import explained, nameless, progress_bars, read_samples

_TEXT = (".txt", ".md")
_TABLES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextSource:
    """Text that a configuration names."""

    data: str | Path | Dataset
    """A `.txt`, `.md`, `.json`, `.jsonl` or `.parquet` file, a folder of such files, one that
    `save_to_disk` wrote or one whose README.md says what its `configs` are, a hub id, or a data
    set."""
    name: str | None = None
    """Which configuration of a data set that has several."""
    split: str = "train"
    """Which part, as `datasets` names it; of files, rows of `train`."""
    field: str = "data"
    """The configuration's field, for errors."""
    name_field: str = "data_name"
    """That of `name`."""
    split_field: str = "split"
    """That of `split`."""


def read_source(source: TextSource, *, text_field: str, sample_by: str) -> Dataset:
    """Read the documents of a source, in their order, as the one column `text_field`.

    Args:
        source: what to read.
        text_field: the column with the text.
        sample_by: what of a text file is one document, `document`, `paragraph` or `line`.

    Raises:
        InputError: the source cannot be read, has no such part, or no such column of text.
    """
    read = _read(source, text_field, sample_by)
    field = source.field
    if text_field not in read.column_names:
        raise InputError(
            f"{field} has no column {text_field!r}, but {', '.join(read.column_names)}; set "
            "text_field"
        )
    read = read.select_columns(text_field)
    kind = read.features[text_field]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise InputError(f"{field} has a column {text_field!r} of {kind}, not of text")
    return read


def _read(source: TextSource, text_field: str, sample_by: str) -> Dataset:
    data, field = source.data, source.field
    if not isinstance(data, str | Path):
        read = read_samples(data, name=source.name, name_field=source.name_field, field=field)
        return _part(read, str(read.split), source)
    path = Path(data).expanduser()
    is_folder = path.is_dir() and not is_saved(path) and not _has_configurations(path)
    if is_folder or (path.is_file() and path.suffix in _TEXT):
        if source.name is not None:
            raise nameless(source.name, str(data), source.name_field)
        files = _files_of(path) if is_folder else [path]
        if not files:
            raise InputError(
                f"{field} {data} holds no {', '.join((*_TEXT, *_TABLES))} file; name another"
            )
        return _part(_read_files(field, files, sample_by, text_field), ONLY, source)
    if not path.exists() and path.suffix in _TEXT:
        raise InputError(f"{field} {data} does not exist; name a file, a folder or a hub id")
    return read_samples(
        data,
        split=source.split,
        name=source.name,
        field=field,
        name_field=source.name_field,
        split_field=source.split_field,
    )


def _part(read: Dataset, told: str, source: TextSource) -> Dataset:
    """Take the rows of a part such as train[:1000] or train[90%:]."""
    field = source.split_field
    return only_part(read, told, source.split, source.field, split_field=field, unit="documents")


def _files_of(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (*_TEXT, *_TABLES))
    return [file for file in files if file.is_file() and not _is_hidden(file, folder)]


def _read_files(field: str, files: list[Path], sample_by: str, text_field: str) -> Dataset:
    parts = []
    with progress_bars(False), explained(f"{field} cannot be read"):
        for builder, endings in (
            ("text", _TEXT),
            ("json", (".json", ".jsonl")),
            ("parquet", (".parquet",)),
        ):
            chosen = [str(file) for file in files if file.suffix in endings]
            if not chosen:
                continue
            options: dict[str, Any] = {"sample_by": sample_by} if builder == "text" else {}
            part = datasets.load_dataset(builder, data_files=chosen, split="train", **options)
            if builder == "text" and text_field != "text":
                part = part.rename_column("text", text_field)
            if text_field in part.column_names:
                part = part.select_columns(text_field)
            parts.append(part)
        return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _has_configurations(folder: Path) -> bool:
    """Whether a folder's README.md says what is what, as that of a data set of the hub does."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8").split("---\n")
        return len(head) > 2 and not head[0] and "configs" in (yaml.safe_load(head[1]) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError):
        return False
