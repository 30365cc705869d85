"""Facts that give blocks their kinds by arithmetic on their numbers: periods, steps, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bequest.errors import UnsupportedModelError
from bequest.inheritance.depth_rules import REMOVED, Changes, is_prefix


@dataclass(frozen=True)
class Period:
    """A period from which transformers makes a per-layer list that a `PerLayerList` writes out."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Remove the period where the kept blocks no longer follow it."""
        return {} if is_prefix(selection) else {self.field: REMOVED}


@dataclass(frozen=True)
class PeriodOfOthers:
    """A period with a default, whose list transformers reads and other programs make anew.

    Removed it would be read as its default, so what stays must be a period of the kept blocks.
    Source: `BailingHybridConfig`, which makes `layer_types` of it where the list is not stated.
    """

    field: str
    kinds: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Find a period that gives the kept blocks the kinds they have, or refuse."""
        period, kinds = getattr(config, self.field), getattr(config, self.kinds)
        if kinds != self._made(period, kinds):  # the source goes by its list alone
            return {}
        kept = [kinds[index] for index in selection]
        for every in (period, *range(1, len(kept) + 2)):
            if kept == self._made(every, kept):
                return {self.field: every}
        raise UnsupportedModelError(
            f"programs that read config.json field {self.field!r}, not {self.kinds!r}, would give "
            "the chosen blocks other kinds than they have; choose blocks that repeat, such as the "
            "first ones."
        )

    def _made(self, period: int, kinds: Sequence[str]) -> list[str]:
        return [
            "linear_attention" if (index + 1) % period else "full_attention"
            for index in range(len(kinds))
        ]


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
class RepeatedKinds:
    """A short list of kinds that is repeated over the blocks (RecurrentGemma's `block_types`)."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Write the kinds of all kept blocks into the list, unless the repetition still fits."""
        if is_prefix(selection):
            return {}
        kinds = getattr(config, self.field)
        return {self.field: [kinds[index % len(kinds)] for index in selection]}
