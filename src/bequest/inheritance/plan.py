"""What an inheritance will write, decided from headers and configurations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.companions import companion_files
from bequest.checkpoints.shards import PlannedTensor, Shard
from bequest.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class InheritancePlan:
    """The result of `inherit` or `grow` before a byte of it is written."""

    operation: str
    """"inherit" or "grow"."""
    target: Path
    """The folder that will appear."""
    overwrite: bool
    """Whether the folder replaces one that stands there."""
    inputs: Mapping[str, Checkpoint]
    """The checkpoints read, by their role; the first gives tokenizer and other companions."""
    blocks_from: str
    """Role of the input whose blocks `source_blocks` counts."""
    source_blocks: tuple[int, ...]
    """For each block of the result, its number in that input."""
    block_prefix: str
    """What stands before a block's number in the result's keys."""
    config: Mapping[str, Any]
    """The result's `config.json`."""
    changes: Mapping[str, Any]
    """Configuration fields that differ from the input's, other than the depth; None where removed."""
    shards: tuple[Shard[PlannedTensor], ...]
    """The result's weight files."""
    reinitialized: tuple[str, ...]
    """Keys whose values are drawn anew."""
    seed: int
    """Seed of those draws."""
    notes: tuple[str, ...]
    """Sentences that the user must read."""
    full_hash: bool
    """Whether the lineage records the SHA-256 of whole weight files."""
    trust_remote_code: bool
    """Whether Python files of the model's folder may run."""
    rewritten: Mapping[str, Any] = field(default_factory=dict)
    """Companions that name blocks, by file name: what they hold in the result."""

    def __post_init__(self) -> None:
        self.companions  # noqa: B018 - a link out of the folder is refused before a byte is written

    @property
    def home(self) -> Checkpoint:
        """The input whose companions come along."""
        return next(iter(self.inputs.values()))

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """Every tensor of the result."""
        return tuple(tensor for shard in self.shards for tensor in shard.tensors)

    @property
    def num_layers(self) -> int:
        """Blocks of the result."""
        return len(self.source_blocks)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors of the result, as they are stored."""
        return sum(tensor.num_elements for tensor in self.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of the result's weight files."""
        return sum(len(shard.header) + shard.num_bytes for shard in self.shards)

    @property
    def companions(self) -> list[Path]:
        """Files that come along, relative to the home's folder."""
        return companion_files(self.home.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """What the lineage says of this operation."""
        settings: dict[str, Any] = {
            "num_hidden_layers": self.num_layers,
            "source_blocks": list(self.source_blocks),
            "blocks_from": self.blocks_from,
            "config_changes": dict(self.changes),
        }
        if self.reinitialized:
            settings |= {"reinitialized": list(self.reinitialized), "seed": self.seed}
        return settings


def require_no_adapter(checkpoint: Checkpoint) -> None:
    """Refuse weights that transformers would load together with an adapter beside them.

    Raises:
        UnsupportedModelError: there is an `adapter_config.json`.
    """
    if (checkpoint.folder / "adapter_config.json").is_file():
        raise UnsupportedModelError(
            f"{checkpoint.location.name} has an adapter beside its weights (adapter_config.json), "
            "which transformers applies when it loads them; merge it into the weights first."
        )


def in_byte_order(tensors: Sequence[PlannedTensor]) -> list[PlannedTensor]:
    """Order tensors by their sources' files and bytes, so that the copy is few long runs."""

    def place(tensor: PlannedTensor) -> tuple[str, int]:
        start = getattr(tensor.source, "start", 0)
        return (str(getattr(tensor.source, "file", "")), start)

    return sorted(tensors, key=place)
