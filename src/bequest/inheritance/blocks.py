"""Where the blocks are among a checkpoint's keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bequest.errors import CheckpointError, UnsupportedModelError

_TOWERS = ("vision", "visual", "image", "audio", "vq", "depth_decoder", "projector", "perceiver")
"""Words in the names of a multimodal model's other lists of blocks."""
_NUMBERED = re.compile(r"(?P<prefix>(?:[^.]+\.)*?)(?P<index>\d+)\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class BlockNames:
    """How a checkpoint names its blocks: `prefix`, the block's number, a dot, the rest."""

    prefix: str
    """What stands before the number, such as "model.layers." or "h."."""
    num_blocks: int
    """Blocks of the decoder: numbers from 0 up to this."""
    num_extra: int
    """Blocks numbered from `num_blocks` on, such as multi-token-prediction blocks."""

    def split(self, name: str) -> tuple[int, str] | None:
        """Return a key's block and the rest of the key; None for a tensor outside the blocks."""
        match = _NUMBERED.fullmatch(name)
        if match is None or match["prefix"] != self.prefix:
            return None
        return int(match["index"]), match["rest"]

    def join(self, block: int, rest: str) -> str:
        """Return the key of a block's tensor."""
        return f"{self.prefix}{block}.{rest}"


def is_tower(name: str) -> bool:
    """Whether a list of modules is, by its name, a multimodal model's but not its decoder's."""
    return any(word in name for word in _TOWERS)


def find_blocks(names: Iterable[str], num_hidden_layers: int, *, model: str) -> BlockNames:
    """Find the one list of modules whose numbers run over the decoder's blocks.

    Args:
        names: the checkpoint's keys.
        num_hidden_layers: blocks that the configuration states.
        model: the checkpoint's name, for messages.

    Raises:
        CheckpointError: blocks that the configuration states are missing.
        UnsupportedModelError: no list, or more than one, could be the blocks.
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            numbers.setdefault(match["prefix"], set()).add(int(match["index"]))
    most = max((len(found) for found in numbers.values()), default=0)
    if most and not 1 <= num_hidden_layers <= most + 1:
        raise CheckpointError(
            f"{model} has tensors of {most} blocks, but its config.json states "
            f"num_hidden_layers = {num_hidden_layers:.6g}."
        )
    wanted = set(range(num_hidden_layers))
    candidates = [prefix for prefix, found in numbers.items() if wanted <= found]
    if not candidates:
        if not numbers:
            raise UnsupportedModelError(f"{model} has no numbered blocks among its tensors.")
        nearest = max(numbers, key=lambda prefix: len(wanted & numbers[prefix]))
        absent = min(wanted - numbers[nearest])
        raise CheckpointError(
            f"{model} has no tensors of block {absent} ({nearest}{absent}.*), but its config.json "
            f"states num_hidden_layers = {num_hidden_layers}."
        )
    if len(candidates) > 1:
        # The towers of a multimodal model may be as deep as its decoder.
        candidates = [prefix for prefix in candidates if not is_tower(prefix)] or candidates
    prefix = candidates[0]
    if len(candidates) > 1:
        raise UnsupportedModelError(
            f"{model} has several lists of {num_hidden_layers} blocks ({', '.join(candidates)}), "
            "and bequest cannot tell which is the decoder's."
        )
    extra = sorted(numbers[prefix] - wanted)
    return BlockNames(prefix=prefix, num_blocks=num_hidden_layers, num_extra=len(extra))
