"""Command lines of training runs: nested configurations from a YAML file, with flags over it."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from bequest.cli.arguments import switch
from bequest.cli.mapping_flags import MappingParser, mapping_fields
from bequest.errors import InputError

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class RunArguments(Generic[Config]):
    """A run's command line, parsed."""

    config: Config
    """What the run is asked to do."""
    dry_run: bool
    """Print the plan and stop."""
    quiet: bool
    """Print errors only."""
    as_json: bool
    """Print the results as JSON."""


def parse_run(
    config_class: type[Config], arguments: Sequence[str], *, prog: str, description: str
) -> RunArguments[Config]:
    """Parse the command line of a run whose configuration is nested.

    Args:
        config_class: a frozen dataclass, of dataclasses and mappings, with a docstring under each
            field.
        arguments: the command line after `prog`.
        prog: such as "bequest finetune".
        description: one sentence for the top of the help.

    Raises:
        InputError: an argument or a key of the file is unknown, missing or of the wrong type.
    """
    parser = _parser(config_class, prog, description)
    try:
        parsed = parser.parse_args(list(arguments))
        made = parser.instantiate(parsed)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(_sentence(error)) from error
    fields = dataclasses.fields(config_class)  # type: ignore[arg-type]
    return RunArguments(
        config=config_class(**{field.name: getattr(made, field.name) for field in fields}),
        dry_run=parsed.dry_run,
        quiet=parsed.quiet,
        as_json=parsed.json,
    )


def _parser(config_class: type[Any], prog: str, description: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = MappingParser(
        prog=prog, description=description, default_env=False, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with values for these options")
    # A bare --overwrite reads better than --overwrite true.
    types = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    switches = {name for name in fields if types[name] is bool}
    parser.add_class_arguments(config_class, None, skip=switches)
    parser.mappings = {f"--{name}": name for name in mapping_fields(config_class)}
    documented = _docstrings(config_class)
    for name in sorted(switches):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, dest=name, help=documented[name], **switch(fields[name]))
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _docstrings(config_class: type[Any]) -> dict[str, str]:
    from docstring_parser import parse_from_object

    return {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for parameter in parse_from_object(config_class).params
    }


def _sentence(error: Exception) -> str:
    """Return what the parser complains about, on one line."""
    text = error.message if isinstance(error, argparse.ArgumentError) else str(error)
    return " ".join(str(text).split()).rstrip(".")[:300]
