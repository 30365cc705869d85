"""Where the nodes of a graph stand: rows by rank, few crossings (Sugiyama's method, simply)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SWEEPS = 4


@dataclass(frozen=True)
class Placed:
    """A picture's plan: rows of nodes, and the nodes that each edge passes."""

    rows: tuple[tuple[str, ...], ...]
    """Nodes from top to bottom, each row from left to right; bends of long edges are nodes too."""
    paths: tuple[tuple[str, ...], ...]
    """Each edge as the nodes from its beginning to its end."""
    bends: frozenset[str]
    """The nodes that are only bends."""


def place(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> Placed:
    """Put the nodes of an acyclic graph in rows, every edge pointing down.

    Args:
        nodes: all nodes.
        edges: pairs of nodes, from and to.
    """
    ranks = _ranks(nodes, edges)
    rows: list[list[str]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for node in nodes:
        rows[ranks[node]].append(node)
    paths, bends = [], set()
    for number, (start, end) in enumerate(edges):
        path = [start]
        for rank in range(ranks[start] + 1, ranks[end]):
            bend = f"bend {number} {rank}"
            rows[rank].append(bend)
            bends.add(bend)
            path.append(bend)
        paths.append((*path, end))
    _untangle(rows, paths)
    return Placed(tuple(map(tuple, rows)), tuple(paths), frozenset(bends))


def components(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Part the nodes into groups that no edge joins, in the order of their first nodes."""
    group = {node: [node] for node in nodes}
    for start, end in edges:
        one, other = group[start], group[end]
        if one is not other:
            one += other
            group.update(dict.fromkeys(other, one))
    seen = {id(part): part for node in nodes if (part := group[node])}
    place_of = {node: at for at, node in enumerate(nodes)}
    return [sorted(part, key=place_of.__getitem__) for part in seen.values()]


def _ranks(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Rank by the longest way from a node without inputs, which itself stands above its reader."""
    ranks = dict.fromkeys(nodes, 0)
    for _ in nodes:
        before = dict(ranks)
        for start, end in edges:
            ranks[end] = max(ranks[end], ranks[start] + 1)
        if ranks == before:
            break
    ends = {end for _, end in edges}
    for node in nodes:
        readers = [ranks[end] for start, end in edges if start == node]
        if node not in ends and readers:
            ranks[node] = min(readers) - 1
    return ranks


def _untangle(rows: list[list[str]], paths: Sequence[Sequence[str]]) -> None:
    """Order each row by where its neighbours stand, downwards and upwards in turn."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for path in paths:
        for start, end in itertools.pairwise(path):
            above.setdefault(end, []).append(start)
            below.setdefault(start, []).append(end)
    for sweep in range(_SWEEPS):
        order = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for rank in order:
            other = rows[rank - 1] if sweep % 2 == 0 else rows[rank + 1]
            _sort(rows[rank], other, above if sweep % 2 == 0 else below)


def _sort(row: list[str], other: Sequence[str], neighbours: Mapping[str, Sequence[str]]) -> None:
    places = {node: place / max(1, len(other) - 1) for place, node in enumerate(other)}
    own = {node: place / max(1, len(row) - 1) for place, node in enumerate(row)}

    def middle(node: str) -> float:
        found = [places[one] for one in neighbours.get(node, ())]
        return sum(found) / len(found) if found else own[node]

    row.sort(key=middle)
