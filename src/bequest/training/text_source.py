"""Where text comes from: a file, a folder, the hub or memory, read as one column of documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets import Dataset

from bequest.errors import InputError
from bequest.training.samples import explained, progress_bars, read_samples

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
        _check_nameless(source, "a data set in memory")
        read = read_samples(data, split="train")
        return _part(read, source, {"train", str(read.split or "train")})
    path = Path(data).expanduser()
    if path.is_file() or path.suffix in (*_TEXT, *_TABLES):
        _check_nameless(source, str(data))
        if path.suffix in _TEXT and path.is_file():
            return _part(_read_files(field, [path], sample_by, text_field), source, {"train"})
        if not path.exists():
            raise InputError(f"{field} {data} does not exist; name a file, a folder or a hub id")
        return read_samples(data, split=source.split)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        _check_nameless(source, str(data))
        return read_samples(data, split=source.split)
    if path.is_dir() and not _has_configurations(path):
        _check_nameless(source, str(data))
        files = sorted(p for p in path.rglob("*") if p.suffix in (*_TEXT, *_TABLES))
        files = [file for file in files if file.is_file() and not _is_hidden(file, path)]
        if not files:
            raise InputError(
                f"{field} {data} holds no {', '.join((*_TEXT, *_TABLES))} file; name another"
            )
        return _part(_read_files(field, files, sample_by, text_field), source, {"train"})
    return _read_data_set(source, path)


def _read_data_set(source: TextSource, path: Path) -> Dataset:
    """Read a data set with configurations, of the hub or as it lies there."""
    try:
        if source.name is None:
            return read_samples(source.data, split=source.split)
        with progress_bars(False), explained(f"{source.field} {source.data} cannot be read"):
            place = str(path) if path.is_dir() else str(source.data)
            read = datasets.load_dataset(place, source.name, split=source.split)
    except InputError as error:
        # The library says on its second line which there are.
        lines = str(error.__cause__).splitlines() or [""]
        if lines[0].startswith("Config name is missing") and len(lines) > 1:
            known = lines[1].rpartition(": ")[2].strip("[]").replace("'", "")
            raise InputError(
                f"{source.field} {source.data} has several configurations; set "
                f"{source.name_field} to one of {known}"
            ) from error
        raise
    return read_samples(read)


def _check_nameless(source: TextSource, what: str) -> None:
    if source.name is not None:
        raise InputError(
            f"{source.name_field} is {source.name!r}, but {what} has no configurations; leave it out"
        )


def _part(read: Dataset, source: TextSource, names: set[str]) -> Dataset:
    """Take the rows of a part such as train[:1000] or train[90%:]."""
    try:
        spec = datasets.ReadInstruction.from_spec(source.split)
        parts = spec.to_absolute({name: len(read) for name in names})
    except ValueError as error:
        raise InputError(
            f"{source.split_field} is {source.split!r}, but {source.field} has {len(read):,} "
            "documents in one part; give train, or rows of it such as train[:1000] or train[90%:]"
        ) from error
    if [(part.from_, part.to) for part in parts] == [(0, len(read))]:
        return read
    return read.select([row for part in parts for row in range(part.from_, part.to)])


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
