"""Facts that allow some selections of blocks and refuse others: blocks that need one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bequest.errors import UnsupportedModelError
from bequest.inheritance.depth_rules import Changes, is_prefix


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
class PlaceInList:
    """Blocks whose place in a list of block numbers is part of what they compute.

    Source: `Qwen4ExpTextNGramEmbedding`: the first, second, ... block with an embedding of its own
    hashes tokens by its place among them.
    """

    field: str
    first: int
    what: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse to leave out a block of the list before one that is kept."""
        listed = [number - self.first for number in getattr(config, self.field) or ()]
        kept = [block for block in listed if block in selection]
        if kept != listed[: len(kept)]:
            lost = next(block for block in listed if block not in selection)
            raise UnsupportedModelError(
                f"in a {config.model_type} model {self.what} depends on a block's place in "
                f"config.json field {self.field!r}; keep block {lost}, or leave out block {kept[-1]}."
            )
        return {}


@dataclass(frozen=True)
class Follower:
    """A kind of block that reads what an earlier block of another kind computed.

    Source: `GlmMoeDsaAttention`: a block whose `indexer_types` entry is "shared" attends to the
    tokens that the nearest block before it with a "full" entry chose.
    """

    field: str
    leader: str
    follower: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Select the entries; refuse a follower that would read another block than it did."""
        kinds = getattr(config, self.field, None)
        if kinds is None:
            return {}
        for new, old in enumerate(selection):
            if kinds[old] != self.follower:
                continue
            before = _last(kinds, range(old), self.leader)
            after = _last(kinds, selection[:new], self.leader)
            if before != after:
                raise UnsupportedModelError(
                    f"block {old} reads what block {before} computed (config.json field "
                    f"{self.field!r}); keep block {before} and none of that kind between them."
                )
        return {self.field: [kinds[index] for index in selection]}


def _last(kinds: Sequence[str], numbers: Iterable[int], wanted: str) -> int | None:
    return max((number for number in numbers if kinds[number] == wanted), default=None)


@dataclass(frozen=True)
class AlwaysFirst:
    """Math that depends on a block's number in every model of the type."""

    what: str
    """Completes "a block's number decides ..."."""

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse a selection that gives a block another number."""
        if not is_prefix(selection):
            raise UnsupportedModelError(
                f"in a {config.model_type} model a block's number decides {self.what}; keep the "
                "first blocks, which keep their numbers."
            )
        return {}


@dataclass(frozen=True)
class LastKind:
    """A configuration that makes the last block's kind the given one, whatever its list says."""

    field: str
    kind: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Refuse a selection whose last block is of another kind."""
        found = getattr(config, self.field)[selection[-1]]
        if found != self.kind:
            raise UnsupportedModelError(
                f"transformers makes the last block of a {config.model_type} model {self.kind!r}, "
                f"but block {selection[-1]} is {found!r}; let the selection end with another block."
            )
        return {}


@dataclass(frozen=True)
class SharedTail:
    """The last blocks read keys and values of earlier ones (Gemma 3n, Gemma 4).

    Source: `Gemma3nTextConfig.kv_sharing_modes`: each of the last `num_kv_shared_layers` blocks
    reads the keys of the last block of its own kind before them.
    """

    field: str = "num_kv_shared_layers"

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Count the kept ones; refuse one that would read another block than it did."""
        count = getattr(config, self.field, 0) or 0
        if not count:
            return {}
        first, kinds = config.num_hidden_layers - count, config.layer_types
        kept = [index for index in selection if index >= first]
        owners = [index for index in selection if index < first]
        for index in kept:
            before = max(owner for owner in range(first) if kinds[owner] == kinds[index])
            if before not in owners:
                raise UnsupportedModelError(
                    f"block {index} reads the keys and values of block {before} (config.json field "
                    f"{self.field!r} is {count}); keep block {before}, or leave out the blocks "
                    f"from {first} on."
                )
        if kept:
            stores = {
                max(owner for owner in range(first) if kinds[owner] == kind) for kind in set(kinds)
            }
            lost = {kinds[index] for index in stores} - {kinds[index] for index in owners}
            if lost:
                raise UnsupportedModelError(f"no kept block computes keys of kind {sorted(lost)}.")
        return {self.field: len(kept)}


@dataclass(frozen=True)
class OnlyInLast:
    """Weights that only the last block of a model has."""

    what: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse a selection that ends with another block."""
        if selection[-1] != config.num_hidden_layers - 1:
            raise UnsupportedModelError(
                f"only the last block of a {config.model_type} model has {self.what}; let the "
                f"selection end with block {config.num_hidden_layers - 1}."
            )
        return {}


@dataclass(frozen=True)
class HomeOfShared:
    """Weights that several blocks share and that are stored with the first of them."""

    field: str
    kind: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse a selection that leaves out the block that stores them."""
        kinds = getattr(config, self.field)
        home = kinds.index(self.kind)
        if any(kinds[index] == self.kind for index in selection) and home not in selection:
            raise UnsupportedModelError(
                f"block {home} stores the weights that all {self.kind} blocks of a "
                f"{config.model_type} model share; keep it."
            )
        return {}


@dataclass(frozen=True)
class PaddedForAll:
    """Blocks that hash the padding, which is made for every kind of block that a model has.

    Source: `ReformerModel.forward` pads to a multiple of the chunk lengths of the kinds in
    `attn_layers`, and LSH attention sorts the padded tokens among its chunks. Local attention masks
    them, so that for it the padding makes no difference.
    """

    field: str = "attn_layers"

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse LSH blocks alone where they would be padded to fewer tokens."""
        left = {getattr(config, self.field)[index] for index in selection}
        chunk, other = config.lsh_attn_chunk_length, config.local_attn_chunk_length
        if left == {"lsh"} and "local" in getattr(config, self.field) and chunk % other:
            raise UnsupportedModelError(
                f"without a local block the model would pad its input to chunks of {chunk} tokens, "
                f"no longer of {math.lcm(chunk, other)}, and its LSH blocks attend to other tokens "
                "then; keep a local block."
            )
        return {}


@dataclass(frozen=True)
class NotOfKind:
    """Blocks of a kind whose math depends on how deep the model is.

    The checkpoint may hold what the depth decides, as MiniMax's holds `slope_rate`. transformers
    loads it, so there the cut would be right to the last bit (measured); programs that make it anew
    from a block's number and the depth, as vLLM does, would run another model, silently.
    """

    field: str
    kind: str
    what: str

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Change nothing; refuse a cut that keeps such a block."""
        if len(selection) == config.num_hidden_layers:
            return {}
        found = [index for index in selection if getattr(config, self.field)[index] == self.kind]
        if found:
            raise UnsupportedModelError(
                f"in a {config.model_type} model the depth decides {self.what} of {self.kind} "
                f"blocks; where it is made anew, not loaded, block {found[0]} would compute something "
                "else in a shorter one."
            )
        return {}


def require_deepstack(config: Any, selection: Sequence[int], *, model: str) -> None:
    """Refuse a selection that would give an image's features to other blocks.

    Source: `Qwen3VLTextModel.forward`: behind the blocks 0, 1, ... it adds the features that the
    vision tower's blocks of `deepstack_visual_indexes` gave, by the block's number.

    Args:
        config: the whole model's transformers configuration.
        selection: the blocks that are kept, in increasing order.
        model: the source's name, for messages.

    Raises:
        UnsupportedModelError: one of the first blocks, which receive features, is missing.
    """
    levels = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None)
    count = len(levels or ())
    if list(selection[:count]) != list(range(count)):
        raise UnsupportedModelError(
            f"{model}: the first {count} blocks receive features of an image by their number "
            "(vision_config field 'deepstack_visual_indexes'); keep all of them."
        )
