"""`bequest lineage FOLDER`: where a model came from, and whether its files are intact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.lineage import read_lineage
from bequest.checkpoints.lineage_check import FileCheck, verify_outputs
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json


@dataclass(frozen=True, kw_only=True)
class LineageConfig:
    """What `bequest lineage` is asked to do."""

    folder: str
    """Folder that bequest wrote."""
    hash: bool = False
    """Also read whole weight files and compare their SHA-256."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 2 if a file is not as it was recorded.

    Args:
        arguments: the command line after `bequest lineage`.
    """
    parser = build_parser(
        LineageConfig,
        prog="bequest lineage",
        description="Print where a model came from, and verify that its files are as written.",
        positionals=("folder",),
        writes=False,
    )
    parsed = parser.parse_args(list(arguments))
    config = to_config(LineageConfig, parsed)
    folder = Path(config.folder).expanduser()
    record = read_lineage(folder)
    checks = verify_outputs(folder, record, full_hash=config.hash)
    if parsed.json:
        print_json({"lineage": record, "files": {check.name: check.state for check in checks}})
    elif not parsed.quiet:
        for line in _tree(folder.name or str(folder), record):
            print(_printable(line))
        for line in _verdict(checks):
            print(_printable(line))
    return 0 if all(check.intact for check in checks) else 2


def _printable(line: str) -> str:
    """A line whose control characters, which a terminal would obey, are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _tree(name: str, record: Mapping[str, Any], indent: str = "") -> list[str]:
    settings = record["settings"]
    lines = [f"{indent}{name}", f"{indent}  {record['operation']}, {record.get('created', '?')}"]
    blocks = settings.get("source_blocks")
    if blocks:
        from bequest.inheritance.selection import describe_layers

        lines.append(
            f"{indent}  blocks {describe_layers(blocks)} of the {settings.get('blocks_from')}"
        )
    lines.append(f"{indent}  {record.get('command', '')}")
    for item in record["inputs"]:
        revision = f" at {item['revision']}" if item.get("revision") else ""
        lines.append(f"{indent}  {item['role']}:")
        if "lineage" in item:
            lines += _tree(item["name"], item["lineage"], indent + "    ")
        else:
            lines.append(f"{indent}    {item['name']}{revision}")
    return lines


def _verdict(checks: Sequence[FileCheck]) -> list[str]:
    damaged = [check for check in checks if not check.intact]
    if not damaged:
        return [f"{len(checks)} files as they were written."]
    return [f"{check.name}: {check.state}" for check in damaged]
