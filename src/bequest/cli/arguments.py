"""Command lines from our configuration dataclasses, parsed by jsonargparse.

Every field of a dataclass is an option with the docstring under it as help; a YAML file given with
`--config` sets the same fields by their names, and flags override it.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

from bequest.cli.mapping_flags import MappingParser, mapping_fields
from bequest.errors import InputError

Config = TypeVar("Config")


def build_parser(
    config_class: type[Any],
    *,
    prog: str,
    description: str,
    positionals: Sequence[str] = (),
    flags: dict[str, str] | None = None,
    writes: bool = True,
) -> ArgumentParser:
    """Make the parser of one command.

    Args:
        config_class: a frozen dataclass with a docstring under each field.
        prog: such as "bequest inherit".
        description: one sentence for the top of the help.
        positionals: fields that are given by place.
        flags: a field's flag where it is not its name, such as {"from_block": "--from"}.
        writes: whether the command writes files and so takes --dry-run.
    """
    parser = MappingParser(
        prog=prog, description=description, default_env=False, formatter_class=_HelpFormatter
    )
    parser.add_argument("--config", action="config", help="YAML file with values for these options")
    documented = _docstrings(config_class)
    types = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        text = documented.get(field.name, "")
        if field.name in positionals:
            several = typing.get_origin(types[field.name]) is tuple
            nargs = "*" if several else "?"
            parser.add_argument(
                field.name, nargs=nargs, type=str, default=argparse.SUPPRESS, help=text
            )
            continue
        flag = (flags or {}).get(field.name, "--" + field.name.replace("_", "-"))
        parser.add_argument(flag, dest=field.name, help=text, **_argument(types[field.name], field))
    parser.mappings = {"--" + name.replace("_", "-"): name for name in mapping_fields(config_class)}
    if writes:
        parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def to_config(config_class: type[Config], parsed: Namespace) -> Config:
    """Make a dataclass from what its parser parsed.

    Raises:
        InputError: a field without a default was not given.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        value = getattr(parsed, field.name, None)
        if value is None and field.default is not dataclasses.MISSING:
            value = field.default
        elif value is None and field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif value is None:
            raise InputError(f"{field.name} is missing; give it, or set it in the --config file.")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**values)


class _HelpFormatter(DefaultHelpFormatter):
    """Help without the types and defaults that the texts already tell."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or action.default == []:
            return text
        return f"{text} (default: %(default)s)"


def _argument(annotation: Any, field: dataclasses.Field[Any]) -> dict[str, Any]:
    default = None if field.default is dataclasses.MISSING else field.default
    if annotation is bool:
        return switch(field)
    if typing.get_origin(annotation) is tuple:
        element = typing.get_args(annotation)[0]
        return {
            "nargs": "+",
            "type": element,
            "default": list(default or ()),
            "metavar": field.name.upper(),
        }
    if typing.get_origin(annotation) is dict:
        return {"type": annotation, "default": {}, "metavar": field.name.upper()}
    if typing.get_origin(annotation) is UnionType:
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not NoneType)
    if annotation is str:
        # YAML reads `layers: 15` as a number; the field is text all the same.
        return {"type": _text, "default": default, "metavar": field.name.upper()}
    return {"type": annotation, "default": default, "metavar": field.name.upper()}


def switch(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the argument of a truth value: a flag, and where it is true anyhow, its opposite."""
    if field.default is True:
        return {"action": ActionYesNo(no_prefix="no-"), "default": True}
    return {"action": "store_true"}


def _text(value: object) -> str:
    return str(value)


def _docstrings(config_class: type[Any]) -> dict[str, str]:
    """Return the docstring under each field, its lines joined."""
    from docstring_parser import parse_from_object

    return {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for parameter in parse_from_object(config_class).params
    }
