"""How one fact of a configuration follows a selection of blocks: lists, counts, numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bequest.errors import UnsupportedModelError

Changes = dict[str, Any]
"""Configuration fields with their new values; `REMOVED` for a field that goes."""

REMOVED = object()


class DepthRule(Protocol):
    """How one fact of a configuration follows a selection of blocks."""

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Return the fields that change.

        Args:
            config: the source's transformers configuration, defaults filled in.
            selection: the blocks that are kept, in increasing order.
        """
        ...


def is_prefix(selection: Sequence[int]) -> bool:
    """Whether every kept block keeps its number."""
    return list(selection) == list(range(len(selection)))


@dataclass(frozen=True)
class PerLayerList:
    """A list with one entry a block: the same selection of it."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Select the entries of the kept blocks; also where transformers filled in the list."""
        field = getattr(config, "attribute_map", {}).get(self.field, self.field)
        values = getattr(config, field, None)
        if not isinstance(values, (list, tuple)) or _is_computed(config, field):
            return {}
        kept = [values[index] for index in selection]
        # An alias beside the field's own name would contradict it.
        return {field: kept} if field == self.field else {field: kept, self.field: REMOVED}


def _is_computed(config: Any, field: str) -> bool:
    """Whether a configuration makes a field out of others whenever it is read."""
    return isinstance(getattr(type(config), field, None), property)


@dataclass(frozen=True)
class LeadingBlocks:
    """A count k with which blocks below k are of one kind and the others of another."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Count the kept blocks below k: exact, because a selection is in increasing order."""
        count = getattr(config, self.field, None)
        return {} if count is None else {self.field: sum(index < count for index in selection)}


@dataclass(frozen=True)
class BlockNumbers:
    """A list of the numbers of the blocks that are of some kind."""

    field: str
    first: int = 0
    """Number of the first block in that list's counting."""

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Renumber the entries of the kept blocks, and drop the others."""
        numbers = getattr(config, self.field, None)
        if numbers is None:
            return {}
        kept = [
            new + self.first for new, old in enumerate(selection) if old + self.first in numbers
        ]
        return {self.field: kept}


@dataclass(frozen=True)
class RootOfDepth:
    """A scale that the model divides by the square root of its depth, as MiniCPM's `scale_depth`."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Scale it so that the quotient stays, to the last bit."""
        scale, depth = getattr(config, self.field), config.num_hidden_layers
        wanted = scale / math.sqrt(depth)
        root = math.sqrt(len(selection))
        near = wanted * root
        for value in (near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)):
            if value / root == wanted:
                return {self.field: value}
        raise UnsupportedModelError(
            f"config.json field {self.field!r} cannot be scaled exactly to {len(selection)} blocks."
        )


@dataclass(frozen=True)
class OfInitialization:
    """A number made from the depth that only the drawing of new weights reads."""

    field: str
    times_depth: float

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Make it anew, as the configuration's own code does."""
        return {self.field: self.times_depth / len(selection)}


@dataclass(frozen=True)
class Superseded:
    """An older field from which transformers makes a list that is written out instead."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Remove it: beside the list it would say something else."""
        return {self.field: REMOVED}


@dataclass(frozen=True)
class PerLayerConfig:
    """transformers' own `per_layer_config`: fields that differ in single blocks, by block number."""

    field: str = "per_layer_config"

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Renumber the entries of the kept blocks."""
        values = config.to_dict().get(self.field)
        if not values:
            return {}
        by_number = {int(number): entry for number, entry in values.items()}
        kept = {str(new): by_number[old] for new, old in enumerate(selection) if old in by_number}
        return {self.field: kept or REMOVED}


@dataclass(frozen=True)
class RunsOfKinds:
    """Kinds as runs, each some kinds and how often they repeat (GPT-Neo's `attention_types`)."""

    field: str
    whole: str
    """Attribute that holds the kinds of all blocks."""

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Write one run that holds the kinds of all kept blocks."""
        kinds = [getattr(config, self.whole)[index] for index in selection]
        return {self.field: [[kinds, 1]], self.whole: kinds}


@dataclass(frozen=True)
class NumbersInside:
    """Lists of block numbers inside a field that is a dictionary (Kimi's `linear_attn_config`)."""

    field: str
    lists: tuple[str, ...]
    first: int

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Renumber each list."""
        values = getattr(config, self.field, None)
        if not isinstance(values, dict):
            return {}
        changed = dict(values)
        for name in self.lists:
            if name in values:
                changed[name] = [
                    new + self.first
                    for new, old in enumerate(selection)
                    if old + self.first in values[name]
                ]
        return {self.field: changed}


@dataclass(frozen=True)
class SameAsDepth:
    """A second field that states the depth."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Set it to the new depth."""
        return {self.field: len(selection)}
