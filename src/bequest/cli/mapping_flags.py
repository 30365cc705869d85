"""Flags that reach into mappings: `--averages.lawa.spacing 5` changes one value, not its siblings.

jsonargparse replaces everything below the first level of a mapping, and leaves values of deeper
levels as text. So these flags are taken out of the command line, the rest is parsed, and the
mappings that then count are changed and handed to the parser as a whole.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any

from jsonargparse import ArgumentParser

from bequest.errors import InputError

_PRINT = "--print_config"
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class MappingParser(ArgumentParser):
    """jsonargparse's parser, whose mappings take flags of any depth."""

    mappings: Mapping[str, str] = {}
    """The flag of each field that holds a mapping, and the field's dotted name."""

    def parse_args(self, args: Any = None, *rest: Any, **named: Any) -> Any:
        """Parse; flags into mappings count more than the --config file, wherever they stand."""
        words, changes = _taken_out(list(args or ()), self.mappings)
        if changes:
            # Printing the configuration ends the program; it must not before all is known.
            asked = [word for word in words if not word.startswith(_PRINT)]
            parsed = super().parse_args(asked, *rest, **named)
            merged: dict[str, Any] = {}
            for flag, path, value in changes:
                if flag not in merged:
                    merged[flag] = copy.deepcopy(parsed.get(self.mappings[flag])) or {}
                _set(merged[flag], flag, path, value)
            for flag, mapping in merged.items():
                words += [flag, json.dumps(mapping, default=str)]
        return super().parse_args(words, *rest, **named)


def mapping_fields(config_class: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a configuration's fields that hold mappings."""
    types = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind = types[field.name]
        union = typing.get_origin(kind) in (UnionType, typing.Union)
        for one in typing.get_args(kind) if union else (kind,):
            if typing.get_origin(one) is dict:
                yield prefix + field.name
            elif dataclasses.is_dataclass(one) and isinstance(one, type):
                yield from mapping_fields(one, f"{prefix}{field.name}.")


def _taken_out(
    words: list[str], mappings: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, list[str], Any]]]:
    """Return the other words, and of each flag into a mapping its flag, its path and its value."""
    left: list[str] = []
    changes: list[tuple[str, list[str], Any]] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--":
            return [*left, word, *words[place:]], changes
        name, given, text = word.partition("=")
        flag = next((flag for flag in mappings if name.startswith(f"{flag}.")), None)
        if flag is None:
            left.append(word)
            continue
        if not given:
            # Of a flag without its value the parser complains.
            if place == len(words) or words[place].startswith("--"):
                left.append(word)
                continue
            text = words[place]
            place += 1
        changes.append((flag, name.removeprefix(f"{flag}.").split("."), _read(text)))
    return left, changes


def _read(text: str) -> Any:
    """Read a value as the --config file would be read."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML takes 1e-5 for a text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _set(mapping: dict[str, Any], flag: str, path: Sequence[str], value: Any) -> None:
    inner = mapping
    for depth, key in enumerate(path[:-1], start=1):
        if inner.get(key) is None:
            inner[key] = {}
        inner = inner[key]
        if not isinstance(inner, dict):
            above = ".".join([flag.removeprefix("--"), *path[:depth]])
            raise InputError(f"{flag}.{'.'.join(path)} sets a part of {above}, which is {inner!r}")
    inner[path[-1]] = value
