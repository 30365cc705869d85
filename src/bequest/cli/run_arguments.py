"""Command lines of training runs: nested configurations from a YAML file, with flags over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jsonargparse import ActionYesNo, ArgumentParser, set_parsing_settings

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
    values = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(config_class)  # type: ignore[arg-type]
    }
    return RunArguments(
        config=config_class(**values),
        dry_run=parsed.dry_run,
        quiet=parsed.quiet,
        as_json=parsed.json,
    )
