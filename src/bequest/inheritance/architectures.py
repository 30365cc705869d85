"""What each architecture ties to depth: which fields of a configuration change with the blocks.

A cut that forgets one of these loads and runs and is silently wrong, so an architecture is inherited
only once its configuration and model have been read and its facts stand here. The facts are checked
on every cut, too: the configuration of the result may differ in these fields only (`config_cut`),
and every block must come out as the block it was (`identity`).
"""

from __future__ import annotations

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
        values = getattr(config, self.field, None)
        return {} if values is None else {self.field: [values[index] for index in selection]}


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
class NumberInMath:
    """A switch that brings a block's number into what it computes."""

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse a selection that gives a block another number."""
        if getattr(config, self.field, False) and not is_prefix(selection):
            raise UnsupportedModelError(
                f"config.json field {self.field!r} is set, so a block's number is part of what it "
                "computes; keep the first blocks, which keep their numbers."
            )
        return {}


@dataclass(frozen=True)
class PredictionBlocks:
    """Multi-token-prediction blocks behind the decoder's: they are left out.

    They predict from the last block's output; behind a cut they would have to be trained anew.
    """

    field: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Set their count to 0."""
        return {self.field: 0} if getattr(config, self.field, 0) else {}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts of one `model_type`."""

    rules: tuple[DepthRule, ...] = ()
    """What follows depth beyond `num_hidden_layers` and the lists that every type may have."""
    prediction_blocks: str | None = None
    """Field that counts blocks numbered beyond `num_hidden_layers`, which are left out."""


EVERYWHERE: tuple[DepthRule, ...] = (PerLayerList("layer_types"), PerLayerList("mlp_layer_types"))
"""Lists that transformers accepts, and checks against the depth, in every configuration."""

_WINDOWED = Architecture(rules=(LeadingBlocks("max_window_layers"),))
_PATTERNED = Architecture(rules=(Period("sliding_window_pattern"),))

ARCHITECTURES: dict[str, Architecture] = {
    "deepseek_v3": Architecture(
        rules=(
            LeadingBlocks("first_k_dense_replace"),
            PredictionBlocks("num_nextn_predict_layers"),
        ),
        prediction_blocks="num_nextn_predict_layers",
    ),
    "gemma2": Architecture(),
    "gemma3_text": _PATTERNED,
    "gpt2": Architecture(rules=(NumberInMath("scale_attn_by_inverse_layer_idx"),)),
    "gpt_neox": Architecture(),
    "llama": Architecture(),
    "mistral": Architecture(),
    "mixtral": Architecture(),
    "olmo3": Architecture(),
    "opt": Architecture(),
    "phi3": Architecture(),
    "qwen2": _WINDOWED,
    "qwen3": _WINDOWED,
    "qwen3_moe": Architecture(rules=(LeadingBlocks("max_window_layers"), SparseStep())),
    "smollm3": Architecture(
        rules=(PerLayerList("no_rope_layers"), Period("no_rope_layer_interval"))
    ),
}
"""The facts by `model_type`, read in transformers 5.23's configurations and models."""
