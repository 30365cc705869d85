"""Which models were made from which: the `bequest.json` of several folders joined to one graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bequest.reporting.numbers import ranges, shown
from bequest.reporting.runs import Run

_TOGETHER = 4
"""From this many inputs of one role without lineage on, such as checkpoints of one run, they are
drawn as one."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A node: one model, or checkpoints that were read together."""

    key: str
    """Tells it from the others."""
    name: str
    """Its folder's name or its place on the hub."""
    details: tuple[str, ...] = ()
    """What else is known of it, shortly."""
    path: str = ""
    """Its name in full."""
    reported: bool = False
    """Whether it is one of the report's folders."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An edge, or a bundle of them: what was done to some models to make another."""

    key: str
    """Tells it from the others."""
    name: str
    """The operation, such as "inherit"."""
    settings: tuple[tuple[str, str], ...]
    """What was asked and decided, as text."""
    inputs: tuple[tuple[str, str], ...]
    """Role and key of each model that was read."""
    output: str
    """Key of the model that was made."""
    created: str = ""
    """When."""
    command: str = ""
    """The command line."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that did it."""


@dataclass(kw_only=True)
class LineageGraph:
    """All models and operations, inputs before what was made of them."""

    models: dict[str, Model] = field(default_factory=dict)
    """Models by key."""
    operations: dict[str, Operation] = field(default_factory=dict)
    """Operations by key."""
    reported: dict[str, str] = field(default_factory=dict)
    """Key of the model of each run that holds one, by the run's name."""

    def maker(self, model: str) -> Operation | None:
        """The operation that made a model; None if nothing is known of it."""
        return self.operations.get(f"made {model}")


def lineage_graph(runs: Sequence[Run]) -> LineageGraph:
    """Join the lineages of all runs that hold a model."""
    graph = LineageGraph()
    for run in runs:
        if run.lineage is not None:
            key = _add(graph, run.name, run.lineage, reported=True, path=run.name)
            graph.reported[run.name] = key
            model = graph.models[key]
            if model.name != run.name:
                # A copy of a folder is the same model.
                details = (*model.details, f"also {run.name}")
                graph.models[key] = replace(model, details=details)
    return graph


def _add(
    graph: LineageGraph, name: str, record: Mapping[str, Any], *, reported: bool, path: str
) -> str:
    """Add a model with its record, and what it was made of; return its key."""
    # Not by its outputs: a model card may be written again, the model stays the same.
    key = _digest([record.get(part) for part in ("operation", "created", "settings", "inputs")])
    known = graph.models.get(key)
    if known is None:
        inputs = tuple(_inputs(graph, record["inputs"]))
        graph.operations[f"made {key}"] = Operation(
            key=f"made {key}",
            name=record["operation"],
            settings=tuple(_settings(record["settings"])),
            inputs=inputs,
            output=key,
            created=str(record.get("created", "")),
            command=str(record.get("command", "")),
            versions=_versions(record.get("versions")),
        )
    if known is None or (reported and not known.reported):
        graph.models[key] = Model(key=key, name=name, path=path, reported=reported)
    return key


def _inputs(
    graph: LineageGraph, described: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    bare: dict[str, list[Mapping[str, Any]]] = {}
    for one in described:
        role = str(one.get("role", "input"))
        if "lineage" in one:
            name = str(one.get("repo_id") or _last_part(one["name"]))
            yield role, _add(graph, name, one["lineage"], reported=False, path=one["name"])
        else:
            bare.setdefault(role, []).append(one)
    for role, some in bare.items():
        if len(some) >= _TOGETHER:
            yield role, _add_group(graph, role, some)
            continue
        for one in some:
            yield role, _add_source(graph, one)


def _add_source(graph: LineageGraph, one: Mapping[str, Any]) -> str:
    """Add a model of which nothing is known but what was read."""
    repo_id, revision = one.get("repo_id"), one.get("revision")
    # A model is the same wherever its folder lies, if a sample of its values is.
    told = [repo_id, revision] if repo_id else [one.get("identity_sha256") or one["name"]]
    key = _digest([*told, one.get("structure_sha256")])
    details = (f"revision {str(revision)[:12]}",) if revision else ()
    name = str(repo_id or _last_part(one["name"]))
    graph.models.setdefault(key, Model(key=key, name=name, details=details, path=one["name"]))
    return key


def _add_group(graph: LineageGraph, role: str, some: Sequence[Mapping[str, Any]]) -> str:
    names = [_last_part(one["name"]) for one in some]
    key = _digest([[one["name"], one.get("identity_sha256")] for one in some])
    graph.models.setdefault(
        key,
        Model(
            key=key,
            name=f"{len(some)} {role}s",
            details=(f"{names[0]} to", names[-1]),
            path=", ".join(str(one["name"]) for one in some),
        ),
    )
    return key


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        text = setting_text(value)
        if text:
            yield name.replace("_", " "), text


def setting_text(value: Any) -> str:
    """Write a setting shortly; "" if it says nothing."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool | int | float):
        return shown(value)
    if isinstance(value, list) and all(type(item) is int for item in value):
        return ranges(value)
    if isinstance(value, list):
        return ", ".join(setting_text(item) or "none" for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting_text(item) or 'none'}" for name, item in value.items())
    return str(value)


def _versions(found: object) -> dict[str, str]:
    if not isinstance(found, Mapping):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
