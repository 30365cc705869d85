"""What a diagnosis shows: lazy blocks, the depth to inherit, and the sections of results.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bequest.inheritance.diagnose_measure import Measures
from bequest.inheritance.selection import describe_layers
from bequest.results import Section

_LAZY_BELOW = 1.5
"""MaxRank = 1 after rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Attention collapse in a model, block by block."""

    model: str
    """Folder or hub id."""
    kinds: tuple[str, ...]
    """What each block mixes tokens with."""
    widths: tuple[int | None, ...]
    """Tokens that a token of each block can look back on within a sequence, itself included; None
    for a block without softmax attention, of which only influence and loss are known."""
    length: int
    """Tokens of a sequence."""
    threshold: float
    """Share of the squared Frobenius norm that rank and mass hold."""
    measures: Measures
    """What was measured of each sequence."""
    losses: NDArray[np.float32] | None = None
    """(1 + blocks) x sequences: mean loss in nats a token of the whole model, then without each."""

    @property
    def num_layers(self) -> int:
        """Blocks of the model."""
        return len(self.kinds)

    @property
    def num_sequences(self) -> int:
        """Sequences of which ranks, masses and influence were measured."""
        return len(self.measures.influence)

    @property
    def skipped(self) -> tuple[int, ...]:
        """Blocks without softmax attention."""
        return tuple(block for block, width in enumerate(self.widths) if width is None)

    def rank(self, block: int) -> NDArray[np.float64]:
        """Rank(head): k* of each head of a block, mean over the sequences."""
        mean: NDArray[np.float64] = self.measures.ranks[block].mean(axis=0, dtype=np.float64)
        return mean

    def mass(self, block: int) -> NDArray[np.float64]:
        """m* of each head of a block, mean over the sequences."""
        mean: NDArray[np.float64] = self.measures.masses[block].mean(axis=0, dtype=np.float64)
        return mean

    @property
    def max_rank(self) -> tuple[float | None, ...]:
        """MaxRank of each block: the largest Rank of its heads."""
        return self._attentive(lambda block: float(self.rank(block).max()))

    @property
    def average_mass(self) -> tuple[float | None, ...]:
        """AvgMass of each block: m*, mean over heads and sequences."""
        return self._attentive(lambda block: float(self.mass(block).mean()))

    @property
    def influence(self) -> tuple[float, ...]:
        """BI of each block: 1 - cos(input, output), mean over tokens and sequences."""
        return tuple(self.measures.influence.mean(axis=0, dtype=np.float64).tolist())

    @property
    def lazy(self) -> tuple[int, ...]:
        """Blocks whose MaxRank is 1 after rounding."""
        return tuple(
            block
            for block, rank in enumerate(self.max_rank)
            if rank is not None and rank < _LAZY_BELOW
        )

    @property
    def loss_increase(self) -> tuple[tuple[float, float | None], ...] | None:
        """Loss without each block less the whole model's, and its standard error (paired)."""
        if self.losses is None:
            return None
        increase = self.losses[1:].astype(np.float64) - self.losses[0].astype(np.float64)
        count = increase.shape[1]
        if count < 2:
            return tuple((float(mean), None) for mean in increase.mean(axis=1))
        errors = increase.std(axis=1, ddof=1) / np.sqrt(count)
        return tuple(zip(increase.mean(axis=1).tolist(), errors.tolist(), strict=True))

    @property
    def proposal(self) -> tuple[int, str]:
        """How many of the first blocks to inherit, and why in one sentence."""
        return propose_depth(self.num_layers, self.lazy)

    def sections(self) -> list[Section]:
        """Return what goes into results.json."""
        return [self._summary(), self._blocks(), *self._heatmaps(), *self._lines()]

    def _attentive(self, value: Callable[[int], float]) -> tuple[float | None, ...]:
        return tuple(
            None if width is None else value(block) for block, width in enumerate(self.widths)
        )

    def _summary(self) -> Section:
        depth, reason = self.proposal
        rows: list[list[str | int | float]] = [
            ["model", self.model],
            ["blocks", self.num_layers],
            ["sequences", self.num_sequences],
            ["tokens of a sequence", self.length],
            ["share that rank and mass hold", self.threshold],
            ["lazy blocks", len(self.lazy)],
            ["  which", _named(self.lazy)],
            ["blocks without softmax attention, skipped", len(self.skipped)],
            ["  which", _named(self.skipped)],
            ["proposed depth to inherit", depth],
            ["  because", reason],
        ]
        if self.losses is not None:
            rows.insert(5, ["loss of the whole model (nats/token)", float(self.losses[0].mean())])
            rows.insert(5, ["sequences for the loss", self.losses.shape[1]])
        return Section(
            title="Diagnosis",
            type="table",
            data={"columns": ["what", "value"], "rows": rows, "headline": True},
        )

    def _blocks(self) -> Section:
        columns = ["block", "kind", "width", "heads", "MaxRank", "AvgMass", "influence", "lazy"]
        increase = self.loss_increase
        if increase is not None:
            columns += ["loss increase without it", "standard error"]
        rows = []
        for block in range(self.num_layers):
            width = self.widths[block]
            row = [
                block,
                self.kinds[block],
                width,
                None if width is None else self.measures.ranks[block].shape[1],
                self.max_rank[block],
                self.average_mass[block],
                self.influence[block],
                None if width is None else block in self.lazy,
            ]
            rows.append(row if increase is None else [*row, *increase[block]])
        return Section(title="Blocks", type="table", data={"columns": columns, "rows": rows})

    def _heatmaps(self) -> list[Section]:
        ranks, masses = self.measures.ranks, self.measures.masses
        return [
            self._heatmap("Attention rank, mean over sequences", "rank", ranks, largest=False),
            self._heatmap("Attention rank, largest over sequences", "rank", ranks, largest=True),
            self._heatmap("Attention mass, mean over sequences", "columns", masses, largest=False),
            self._heatmap(
                "Attention mass, largest over sequences", "columns", masses, largest=True
            ),
        ]

    def _heatmap(
        self, title: str, label: str, values: Sequence[NDArray[np.float32]], *, largest: bool
    ) -> Section:
        most = max(found.shape[1] for found in values)
        rows = []
        for found in values:
            own = found.max(axis=0) if largest else found.mean(axis=0, dtype=np.float64)
            gaps: list[float | None] = [None] * (most - found.shape[1])
            rows.append([*own.tolist(), *gaps])
        return Section(
            title=title,
            type="heatmap",
            data={
                "x_label": "head",
                "y_label": "block",
                "value_label": label,
                "x": list(range(most)),
                "y": list(range(self.num_layers)),
                "values": rows,
            },
        )

    def _lines(self) -> list[Section]:
        blocks = list(range(self.num_layers))
        ranks = {"name": "MaxRank", "x": blocks, "y": list(self.max_rank)}
        masses = {"name": "AvgMass", "x": blocks, "y": list(self.average_mass)}
        influence = {"name": "block influence", "x": blocks, "y": list(self.influence)}
        sections = [
            _lines("Rank and mass by block", f"of {self.length}", [ranks, masses]),
            _lines("Block influence", "1 - cosine", [influence]),
        ]
        increase = self.loss_increase
        if increase is not None:
            mean = [value for value, _ in increase]
            line: dict[str, object] = {"name": "without the block", "x": blocks, "y": mean}
            if increase[0][1] is not None:
                line["interval"] = {
                    "low": [value - 1.96 * (error or 0.0) for value, error in increase],
                    "high": [value + 1.96 * (error or 0.0) for value, error in increase],
                }
            sections.append(_lines("Loss increase", "loss increase (nats/token)", [line]))
        return sections


def propose_depth(num_layers: int, lazy: Sequence[int]) -> tuple[int, str]:
    """Propose how many of the first blocks to inherit, and say why in one sentence.

    At least half of the blocks, where the paper starts. Beyond that the depth at which attentive
    and lazy blocks part best: the one with the largest surplus of lazy over other blocks behind
    it, the smallest of several. If lazy blocks are never in the majority behind any depth, half.

    Args:
        num_layers: blocks of the model.
        lazy: the lazy ones.
    """
    half = max(1, (num_layers + 1) // 2)
    marked = set(lazy)
    surplus = {
        depth: sum(1 if block in marked else -1 for block in range(depth, num_layers))
        for depth in range(half, num_layers)
    }
    start = f"half of the {num_layers} is where Inheritune starts and grows from"
    if not marked:
        return half, f"No block is lazy, so attention speaks for no depth; {start}."
    best = max(surplus, key=lambda depth: (surplus[depth], -depth), default=half)
    if surplus.get(best, 0) <= 0:
        return half, (
            f"The lazy blocks ({_named(lazy)}) are nowhere in the majority towards the end, so they "
            f"speak for no depth; {start}."
        )
    behind = [block for block in marked if block >= best]
    return best, (
        f"Of the {num_layers - best} blocks behind the first {best}, {len(behind)} are lazy, and no "
        f"depth from half of the {num_layers} on parts attentive from lazy blocks better."
    )


def _named(blocks: Sequence[int]) -> str:
    ranges = [part.split("-") for part in describe_layers(blocks).split(",") if part]
    return ", ".join("-".join(dict.fromkeys(ends)) for ends in ranges) or "none"


def _lines(title: str, y_label: str, series: Sequence[Mapping[str, object]]) -> Section:
    data = {"x_label": "block", "y_label": y_label, "series": list(series)}
    return Section(title=title, type="lines", data=data)
