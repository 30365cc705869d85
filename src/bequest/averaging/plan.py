"""What an average will be written as, decided from headers and configurations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.averaging.alike import Member, require_alike, require_ties_kept
from bequest.averaging.coefficients import Vector
from bequest.averaging.mixture import Mixture
from bequest.averaging.streaming import AveragedTensor
from bequest.checkpoints import dtypes
from bequest.checkpoints.checkpoint import SAFETENSORS, read_json
from bequest.checkpoints.companions import companion_files
from bequest.checkpoints.formats import MODEL_CONFIG
from bequest.checkpoints.locate import Location, locate
from bequest.checkpoints.publish import require_space
from bequest.checkpoints.shards import Shard, plan_shards, target_dtype, with_dtype
from bequest.checkpoints.verify import require_trust
from bequest.errors import InputError

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_UNSPLIT = "1000TB"
"""PEFT reads an adapter from one file."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a result is stored and checked."""

    dtype: str | None = None
    """The floats' dtype by its torch name; None keeps each tensor's."""
    config_from: str | None = None
    """Model that gives configuration and tokenizer where the checkpoints have none."""
    max_shard_size: str = "5GB"
    """Largest size of one weight file."""
    overwrite: bool = False
    """Whether a model that stands at the target may be replaced."""
    full_hash: bool = False
    """Whether the lineage records the SHA-256 of whole weight files."""
    verify: bool = False
    """Whether transformers judges the result also where that is not needed."""
    trust_remote_code: bool = False
    """Whether Python files of the model's folder may run."""
    skip_bad: bool = False
    """Whether members that hold NaN or Inf are left out."""


@dataclass(frozen=True, kw_only=True)
class AveragePlan:
    """An average before a byte of it is written."""

    target: Path
    """The folder that will appear."""
    members: tuple[Member, ...]
    """What is averaged, oldest first."""
    skipped: tuple[Member, ...]
    """Members left out because they hold NaN or Inf."""
    mixture: Mixture
    """How the members are weighted."""
    manner: Manner
    """How the result is stored and checked."""
    shards: tuple[Shard[AveragedTensor], ...]
    """The result's weight files."""
    home: Location | None
    """The folder whose tokenizer and other companions come along; None if there is none."""
    config_file: str | None
    """Name of the result's configuration; None for a plain state dict."""
    config: Mapping[str, Any]
    """Its contents."""
    judged: bool
    """Whether transformers must judge the plan before it is published.

    The result of transformers folders has the newest member's keys, shapes and configuration, all
    compared here, so transformers loads it exactly as it loads that member, whose trainer wrote it
    to be loaded. Only where a configuration and weights meet for the first time is there something
    to find out.
    """
    notes: tuple[str, ...]
    """Sentences that the user must read."""

    @property
    def vector(self) -> Vector:
        """The members' coefficients in tensors that are not excluded, oldest first."""
        return self.mixture.vector("", len(self.members))

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors, as they are stored."""
        return sum(tensor.num_elements for shard in self.shards for tensor in shard.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of the result's weight files."""
        return sum(len(shard.header) + shard.num_bytes for shard in self.shards)

    @property
    def companions(self) -> list[Path]:
        """Files that come along, relative to the home's folder."""
        return [] if self.home is None else companion_files(self.home.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """What the lineage says of this operation."""
        return {
            "steps": [member.step for member in self.members],
            "coefficients": self.mixture.coefficients,
            "vector": self.vector.tolist(),
            "blend": self.mixture.blend,
            "exclude": list(self.mixture.exclude),
            "dtype": self.manner.dtype,
            "skipped": [member.weights.name for member in self.skipped],
        }


def plan_of(
    members: Sequence[Member],
    mixture: Mixture,
    target: Path,
    manner: Manner,
    *,
    skipped: Sequence[Member] = (),
    notes: Sequence[str] = (),
) -> AveragePlan:
    """Plan the average of opened members.

    Args:
        members: oldest first.
        mixture: how they are weighted.
        target: a path from `check_target`.
        manner: how the result is stored and checked.
        skipped: members left out because they hold NaN or Inf.
        notes: sentences that the user must read.

    Raises:
        InputError: the members are not one model, or the request does not fit them.
        StorageError: the disk cannot hold the result.
    """
    require_alike(members, dtype=manner.dtype)
    newest = members[-1].weights
    mixture.check_names(newest.tensors)
    tensors = plan_tensors(members, mixture, manner.dtype)
    is_adapter = newest.format == "adapter"
    shards = plan_shards(
        tensors,
        _UNSPLIT if is_adapter else manner.max_shard_size,
        single=_ADAPTER_WEIGHTS if is_adapter else SAFETENSORS,
    )
    home, config_file, config = _configuration(members[-1], manner, tensors)
    require_ties_kept(newest, config, {tensor.name: tensor.vector for tensor in tensors})
    borrowed = newest.config_file is None and config_file is not None
    judged = borrowed or (manner.verify and config_file == MODEL_CONFIG)
    if judged and home is not None:
        require_trust(home, config, trust_remote_code=manner.trust_remote_code)
    plan = AveragePlan(
        target=target,
        members=tuple(members),
        skipped=tuple(skipped),
        mixture=mixture,
        manner=manner,
        shards=shards,
        home=home,
        config_file=config_file,
        config=config,
        judged=judged,
        notes=(*notes, *_notes(newest.format, config_file)),
    )
    require_space(target, plan.num_bytes)
    return plan


def plan_tensors(
    members: Sequence[Member], mixture: Mixture, dtype: str | None
) -> list[AveragedTensor]:
    """Plan every tensor of an average, in the order in which the newest member stores them."""
    planned = []
    vectors: dict[tuple[float, ...], tuple[float, ...]] = {}
    for name, newest in members[-1].weights.tensors.items():
        vector = None
        if dtypes.is_float(newest.dtype):
            vector = tuple(mixture.vector(name, len(members)).tolist())
            vector = vectors.setdefault(vector, vector)
        planned.append(
            AveragedTensor(
                name=name,
                dtype=target_dtype(newest.dtype, dtype, name),
                shape=newest.shape,
                sources=tuple(member.weights.tensors[name] for member in members),
                vector=vector,
            )
        )
    return planned


def _configuration(
    newest: Member, manner: Manner, tensors: Sequence[AveragedTensor]
) -> tuple[Location | None, str | None, dict[str, Any]]:
    """Return where companions come from, the configuration's file name, and its contents."""
    weights = newest.weights
    if weights.config_file is not None:
        if manner.config_from is not None:
            raise InputError(
                f"config_from is {manner.config_from}, but {weights.name} has a "
                f"{weights.config_file} of its own; leave it out."
            )
        config = dict(weights.config)
        if weights.config_file == MODEL_CONFIG:
            config = with_dtype(config, manner.dtype)
        return weights.location, weights.config_file, config
    if manner.config_from is None:
        if weights.format == "dcp":
            raise InputError(
                f"{weights.name} holds sharded weights without a configuration; give --config-from "
                "with the model that was trained."
            )
        return None, None, {}
    home = locate(manner.config_from, field="config_from")
    # What was trained may have another dtype than the model that gives the configuration.
    floats = {tensor.dtype for tensor in tensors if tensor.vector is not None}
    named = {stored: name for name, stored in dtypes.CONVERTIBLE.items()}
    dtype = named[floats.pop()] if len(floats) == 1 else None
    return home, MODEL_CONFIG, with_dtype(read_json(home.folder / MODEL_CONFIG), dtype)


def _notes(form: str, config_file: str | None) -> list[str]:
    if form == "adapter":
        return [
            "The factors of the adapter are averaged, not their products, as a live average of "
            "them would be."
        ]
    if config_file is None:
        return ["There is no config.json: the result is a plain state dict (see --config-from)."]
    return []
