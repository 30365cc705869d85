"""Multi-token-prediction blocks: they are left out, whatever a checkpoint calls them.

They predict further tokens from the last block's output. Behind a cut they would have to be trained
anew, transformers trains none of them, and an engine that drafts with them would draft badly. They
stand behind the decoder's blocks, numbered on (DeepSeek-V3, GLM), or under `mtp` (Qwen3-Next).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import BlockNames
from bequest.inheritance.depth_rules import REMOVED, Changes

COUNTS = (
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "mtp_num_hidden_layers",
    "mtp_num_layers",
    "num_mtp_modules",
)
"""What configurations call their number."""
_KINDS = ("mtp_layer_types", "mtp_mlp_layer_types")
"""Lists with an entry a prediction block."""
LEFT_OUT = "Left out: the multi-token-prediction blocks."
"""What a plan says of them."""
_NAMED = re.compile(r"(?:^|\.)mtp[._]")


@dataclass(frozen=True)
class PredictionBlocks:
    """The number of prediction blocks, under any of its names."""

    def cut(self, config: Any, selection: Sequence[int]) -> Changes:
        """Set it to 0; an alias that would contradict it goes, and so do the blocks' kinds."""
        changes: Changes = {}
        for name in COUNTS:
            field = getattr(config, "attribute_map", {}).get(name, name)
            if getattr(config, field, None):
                changes[field] = 0
                if field != name:
                    changes[name] = REMOVED
        if changes:
            changes |= {name: REMOVED for name in _KINDS if name in config.to_dict()}
        return changes


def is_prediction(name: str) -> bool:
    """Whether a tensor or module lies, by its name, in a list of prediction blocks of its own."""
    return _NAMED.search(name) is not None


def prediction_tensors(
    names: Iterable[str], blocks: BlockNames, whole: Any, decoder: Any, *, model: str
) -> frozenset[str]:
    """Return the keys of all prediction blocks.

    They are known by the configuration, which counts them, or by transformers, which passes over
    them when it loads the model.

    Args:
        names: the checkpoint's keys.
        blocks: how it names its blocks.
        whole: its transformers configuration.
        decoder: the part of that which describes the decoder.
        model: the checkpoint's name, for messages.

    Raises:
        UnsupportedModelError: numbered blocks behind the decoder's that are no prediction blocks.
    """
    behind = {name for name in names if _number(name, blocks) >= blocks.num_blocks}
    named = {name for name in names if name not in behind and is_prediction(name)}
    if not behind and not named:
        return frozenset()
    counted = max((getattr(decoder, field, None) or 0 for field in COUNTS), default=0)
    ignored = _ignored(whole) + _ignored(decoder)

    def known(key: str) -> bool:
        return any(re.search(pattern, key) for pattern in ignored)

    if blocks.num_extra > counted and not all(known(key) for key in behind):
        raise UnsupportedModelError(
            f"{model} has tensors of {blocks.num_blocks + blocks.num_extra} blocks, but its "
            f"config.json states num_hidden_layers = {blocks.num_blocks}."
        )
    return frozenset(behind | {key for key in named if counted or known(key)})


def _number(name: str, blocks: BlockNames) -> int:
    place = blocks.split(name)
    return -1 if place is None else place[0]


def _ignored(config: Any) -> list[str]:
    """Patterns of the keys that the models of a configuration's module pass over."""
    name = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(name)
    except ImportError:
        return []
    patterns: list[str] = []
    for found in vars(module).values():
        patterns += getattr(found, "_keys_to_ignore_on_load_unexpected", None) or ()
    return patterns
