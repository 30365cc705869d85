"""How one fact of a configuration follows a selection of blocks: lists, counts, periods, numbers."""

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
class Period:
    """A period from which transformers makes a per-layer list that a `PerLayerList` writes out."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Remove the period where the kept blocks no longer follow it."""
        return {} if is_prefix(selection) else {self.field: REMOVED}


@dataclass(frozen=True)
class SparseStep:
    """Experts in every n-th block, but not in the blocks of a list.

    Source: `Qwen3MoeDecoderLayer`: block i has experts if i is not in `mlp_only_layers`,
    `num_experts > 0` and `(i + 1) % decoder_sparse_step == 0`.
    """

    dense: str = "mlp_only_layers"
    step: str = "decoder_sparse_step"

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Renumber the list; where numbers move, let it name every dense block and the step be 1."""
        dense, step = getattr(config, self.dense) or [], getattr(config, self.step)
        if is_prefix(selection):
            return {self.dense: [index for index in dense if index in selection]}
        is_dense = [index in dense or (index + 1) % step != 0 for index in selection]
        return {self.dense: [new for new, flag in enumerate(is_dense) if flag], self.step: 1}


@dataclass(frozen=True)
class PredictionBlocks:
    """Multi-token-prediction blocks behind the decoder's: they are left out.

    They predict from the last block's output; behind a cut they would have to be trained anew.
    """

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Set their count to 0."""
        return {self.field: 0} if getattr(config, self.field, 0) else {}


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
class PeriodAndOffset:
    """Block i is of one kind if `i % period == offset`, and no list can say otherwise.

    Source: `JambaConfig.layers_block_type`, `JambaConfig.layers_num_experts`.
    """

    period: str
    offset: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Find a period and an offset that give the kept blocks the kinds they had, or refuse."""
        period, offset = getattr(config, self.period), getattr(config, self.offset)
        kinds = [index % period == offset for index in selection]
        candidates = [(period, offset)] + [
            (every, start) for every in range(1, len(selection) + 2) for start in range(every)
        ]
        for every, start in candidates:
            if kinds == [index % every == start for index in range(len(selection))]:
                return {self.period: every, self.offset: start}
        raise UnsupportedModelError(
            f"config.json can say which blocks are of which kind by {self.period!r} and "
            f"{self.offset!r} only, and no period gives the chosen blocks the kinds they have; "
            "choose blocks that repeat, such as the first ones."
        )


@dataclass(frozen=True)
class ExpertRange:
    """Experts in every n-th block from one number to another.

    Source: `Ernie4_5_MoeDecoderLayer`; `Ernie4_5_MoeConfig` replaces an end of -1 by the last block.
    """

    interval: str = "moe_layer_interval"
    start: str = "moe_layer_start_index"
    end: str = "moe_layer_end_index"

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Find a range that gives experts to the kept blocks that had some, or refuse."""
        old = (
            getattr(config, self.interval),
            getattr(config, self.start),
            getattr(config, self.end),
        )
        kinds = [_has_experts(index, *old) for index in selection]
        numbers = [new for new, flag in enumerate(kinds) if flag]
        # An end of -1 would mean the last block, so "no block" is a start behind the last one.
        first, last = (numbers[0], numbers[-1]) if numbers else (len(kinds), len(kinds))
        for every in (old[0], *range(1, len(kinds) + 1)):
            if kinds == [_has_experts(index, every, first, last) for index in range(len(kinds))]:
                return {self.interval: every, self.start: first, self.end: last}
        raise UnsupportedModelError(
            f"config.json can say which blocks have experts by {self.interval!r} only, and no "
            "interval fits the chosen blocks; choose blocks at equal distances."
        )


def _has_experts(index: int, interval: int, start: int, end: int) -> bool:
    return (index + 1) % interval == 0 and start <= index <= end


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
class RepeatedKinds:
    """A short list of kinds that is repeated over the blocks (RecurrentGemma's `block_types`)."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Write the kinds of all kept blocks into the list, unless the repetition still fits."""
        if is_prefix(selection):
            return {}
        kinds = getattr(config, self.field)
        return {self.field: [kinds[index % len(kinds)] for index in selection]}


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
