"""What a report is made of: each folder's `results.json`, and its `bequest.json` if it has one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bequest.errors import InputError
from bequest.results import FILE_NAME, SCHEMA_VERSION, Section

LINEAGE_NAME = "bequest.json"
_LINEAGE_VERSION = 1
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
"""What neither HTML nor SVG may hold, and what would turn the letters after it around."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One folder of a report."""

    name: str
    """The folder's name, with as much of its path as tells it from the others."""
    folder: Path
    """Where it is."""
    command: str
    """The command line that made the results."""
    sections: tuple[Section, ...]
    """Its results."""
    lineage: Mapping[str, Any] | None
    """What its `bequest.json` says, if it holds a model."""


def read_runs(places: Sequence[str | Path]) -> list[Run]:
    """Read the results of some folders.

    Args:
        places: folders with a `results.json`, or the files themselves.

    Raises:
        InputError: a folder or its results do not exist, cannot be read or are not of the layout
            that `bequest.results` writes; or one is named twice.
    """
    if not places:
        raise InputError("runs is empty; name at least one folder with a results.json.")
    folders = [_folder(place) for place in places]
    seen: dict[Path, str | Path] = {}
    for place, folder in zip(places, folders, strict=True):
        if folder in seen:
            raise InputError(
                f"runs names {place} twice (first as {seen[folder]}); name each folder once."
            )
        seen[folder] = place
    names = _names(folders)
    return [_read(name, folder) for name, folder in zip(names, folders, strict=True)]


def _folder(place: str | Path) -> Path:
    path = Path(place).expanduser()
    folder = path.parent if path.name == FILE_NAME else path
    if not folder.exists():
        raise InputError(f"run {place} does not exist; name a folder with a {FILE_NAME}.")
    if not (folder / FILE_NAME).is_file():
        beside = path.with_suffix("")
        hint = (
            f"its results are in {beside}"
            if path.is_file() and (beside / FILE_NAME).is_file()
            else "name the folder that a bequest command wrote"
        )
        raise InputError(f"run {place} has no {FILE_NAME}; {hint}.")
    return folder.resolve()


def _names(folders: Sequence[Path]) -> list[str]:
    """Name each folder by the fewest last parts of its path that no other ends with."""
    names = []
    for folder in folders:
        parts = folder.parts[1:] or folder.parts
        others = [other.parts for other in folders if other != folder]
        count = 1
        while count < len(parts) and any(other[-count:] == parts[-count:] for other in others):
            count += 1
        names.append(clean("/".join(parts[-count:])))
    return names


def _read(name: str, folder: Path) -> Run:
    file = folder / FILE_NAME
    document = read_json(file)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{file} has schema_version {version!r}; this bequest reads {SCHEMA_VERSION}."
        )
    command, sections = document.get("command"), document.get("sections")
    if not isinstance(command, str) or not isinstance(sections, list):
        raise InputError(f"{file} lacks its command or its sections; let a command write it.")
    return Run(
        name=name,
        folder=folder,
        command=command,
        sections=tuple(_section(file, found) for found in sections),
        lineage=_lineage(folder / LINEAGE_NAME),
    )


def _section(file: Path, found: object) -> Section:
    if not isinstance(found, Mapping) or not {"title", "type", "data"} <= found.keys():
        raise InputError(f"{file} holds a section without title, type and data: {found!r:.60}.")
    try:
        return Section(title=found["title"], type=found["type"], data=found["data"])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _lineage(file: Path) -> Mapping[str, Any] | None:
    if not file.is_file():
        return None
    record = read_json(file)
    _check_lineage(file, record)
    return record


def _check_lineage(file: Path, record: Mapping[str, Any]) -> None:
    if record.get("schema_version") != _LINEAGE_VERSION:
        raise InputError(
            f"{file} has schema_version {record.get('schema_version')!r}; "
            f"this bequest reads {_LINEAGE_VERSION}."
        )
    for key, kind in (("operation", str), ("settings", dict), ("inputs", list)):
        if not isinstance(record.get(key), kind):
            raise InputError(f"{file} is damaged: its {key} is {record.get(key)!r:.60}.")
    for described in record["inputs"]:
        if not isinstance(described, dict) or not isinstance(described.get("name"), str):
            raise InputError(f"{file} is damaged: an input is {described!r:.60}.")
        if "lineage" in described:
            if not isinstance(described["lineage"], dict):
                raise InputError(f"{file} is damaged: the lineage of {described['name']}.")
            _check_lineage(file, described["lineage"])


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; its texts come without what no page may hold.

    Raises:
        InputError: the file cannot be read, or is no JSON object; the line is named.
    """
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file} is no JSON: {error.msg.lower()} in line {error.lineno}, "
            f"column {error.colno}; make it anew."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON ({error}); make it anew.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{file} holds {type(loaded).__name__}, not an object; make it anew.")
    cleaned: dict[str, Any] = _clean_all(loaded)
    return cleaned


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def clean(text: str) -> str:
    """Replace control characters, halves of surrogate pairs and marks of writing direction."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean_all(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _clean_all(item) for key, item in value.items()}
    return value
