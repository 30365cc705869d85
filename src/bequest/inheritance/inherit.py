"""Cut a smaller model out of a bigger one: chosen blocks, and everything that is no block.

Source: Inheritune (arXiv 2404.08634), step 1. Its released scripts copy only the blocks and the
head and draw the rest anew; here every tensor outside the blocks is inherited unless `reinit` names
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bequest.checkpoints.publish import check_target, require_space
from bequest.checkpoints.shards import PlannedTensor, plan_shards, target_dtype, with_dtype
from bequest.checkpoints.verify import require_trust
from bequest.inheritance.blocks import BlockNames, find_blocks
from bequest.inheritance.build import build
from bequest.inheritance.config_cut import (
    cut_config,
    decoder_config,
    depth_field,
    depth_of,
    kept_in_float32,
    read_config,
    require_decoder,
)
from bequest.inheritance.depth_rules import REMOVED, is_prefix
from bequest.inheritance.packed import Packed, Part, find_packed, plan_packed
from bequest.inheritance.plan import (
    InheritancePlan,
    in_byte_order,
    require_no_adapter,
)
from bequest.inheritance.prediction import LEFT_OUT, prediction_tensors
from bequest.inheritance.quantized import FIELD as QUANTIZATION
from bequest.inheritance.quantized import quantization_of, require_unquantized
from bequest.inheritance.quantized_names import cut_older_files, cut_quantization
from bequest.inheritance.selection import layers_as_text, select_layers

_QUANTIZED = (
    "The model is quantized: it was checked as the unquantized model that it stands for, and most "
    "quantized models can be trained through adapters only."
)


@dataclass(frozen=True, kw_only=True)
class InheritConfig:
    """What `bequest inherit` is asked to do."""

    source: str
    """Model to cut: a folder, or a hub id."""
    out: str
    """Folder to write."""
    layers: str
    """Blocks to keep: "18" for the first 18, or chosen ones such as "0-11,20-23"."""
    reinit: tuple[str, ...] = ()
    """Tensors or modules to draw anew instead of inheriting, such as lm_head or model.norm.weight."""
    seed: int = 0
    """Seed of what `reinit` draws."""
    dtype: str | None = None
    """Store floats as float64, float32, float16 or bfloat16; the source's own if left out."""
    revision: str | None = None
    """Branch, tag or commit, if the source is a hub id."""
    max_shard_size: str = "5GB"
    """Largest size of one weight file."""
    overwrite: bool = False
    """Replace a model that stands at `out`."""
    hash: bool = False
    """Record the SHA-256 of whole weight files, which takes about as long again."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""


def inherit(
    source: str | Path,
    out: str | Path,
    *,
    layers: str | int | Sequence[int],
    reinit: Sequence[str] = (),
    seed: int = 0,
    dtype: str | None = None,
    revision: str | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    hash: bool = False,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> InheritancePlan:
    """Cut a smaller model out of a bigger one and write it to a folder, whole or not at all.

    Args:
        source: folder or hub id of a decoder-only language model.
        out: folder to write.
        layers: blocks to keep: a count (the first ones), "0-11,20-23", or increasing indices.
        reinit: keys, or modules by the start of their keys, to draw from the model's own
            initialization instead of inheriting.
        seed: seed of those draws.
        dtype: "float64", "float32", "float16" or "bfloat16" for all floats; None keeps each as is.
        revision: branch, tag or commit of a hub repository.
        max_shard_size: bytes of one weight file, as a number or such as "5GB".
        overwrite: replace a model that stands at `out`.
        hash: record the SHA-256 of whole weight files in the lineage.
        trust_remote_code: let Python files of the model's folder run.
        progress: show a bar.

    Returns:
        The plan that was carried out.

    Raises:
        InputError: an argument, the source or `out` is at fault; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    checkpoint = open_checkpoint(source, revision=revision)
    config = InheritConfig(
        source=str(source),
        out=str(out),
        layers=layers_as_text(layers),
        reinit=tuple(reinit),
        seed=seed,
        dtype=dtype,
        revision=revision,
        max_shard_size=str(max_shard_size),
        overwrite=overwrite,
        hash=hash,
        trust_remote_code=trust_remote_code,
    )
    return build(_plan(config, checkpoint), progress=progress)


def plan_inherit(config: InheritConfig) -> InheritancePlan:
    """Decide from headers and configurations what `inherit` will write.

    Raises:
        InputError: the request cannot be carried out correctly.
        StorageError: the disk cannot hold the result.
    """
    return _plan(config, open_checkpoint(config.source, revision=config.revision))


def _plan(config: InheritConfig, checkpoint: Checkpoint) -> InheritancePlan:
    name = checkpoint.location.name
    target = check_target(config.out, overwrite=config.overwrite, inputs=(checkpoint.folder,))
    require_no_adapter(checkpoint)
    require_trust(
        checkpoint.location, checkpoint.config, trust_remote_code=config.trust_remote_code
    )
    architecture = require_decoder(checkpoint.config, model=name)
    quantization = quantization_of(checkpoint.config, model=name)
    for field in ("dtype", "reinit"):
        if getattr(config, field):
            require_unquantized(checkpoint.config, model=name, what=f"the option {field}")
    read = read_config(checkpoint.config, model=name)
    depth = depth_of(read)
    selection = select_layers(config.layers, depth)
    blocks = find_blocks(checkpoint.tensors, depth, model=name)
    left_out = prediction_tensors(
        checkpoint.tensors, blocks, read, decoder_config(read), model=name
    )
    notes = [LEFT_OUT] if left_out else []
    cut, changes = cut_config(checkpoint.config, selection, architecture, model=name)
    changes.pop(depth_field(read), None)
    if quantization is not None:
        followed = cut_quantization(quantization, blocks, selection, checkpoint.tensors, model=name)
        cut[QUANTIZATION] = followed
        if followed != quantization:
            changes[QUANTIZATION] = followed
        notes.append(_QUANTIZED)
    rewritten = cut_older_files(
        checkpoint.folder, blocks, selection, checkpoint.tensors, model=name
    )
    kept = kept_in_float32(read, config.dtype)
    planned = cut_tensors(
        checkpoint,
        blocks,
        selection,
        config.dtype,
        kept,
        packed=architecture.packed,
        left_out=left_out,
    )
    if config.reinit:
        from bequest.inheritance.reinit import reinitialized

        planned, drawn = reinitialized(
            planned, config.reinit, cut, config.seed, prefix=blocks.prefix
        )
    else:
        drawn = ()
    shards = plan_shards(in_byte_order(planned), config.max_shard_size)
    if not is_prefix(selection):
        notes.append("The kept blocks are not the first ones of the source.")
    notes.append("A cut model must be trained before it is of use.")
    plan = InheritancePlan(
        operation="inherit",
        target=target,
        overwrite=config.overwrite,
        inputs={"source": checkpoint},
        blocks_from="source",
        source_blocks=selection,
        block_prefix=blocks.prefix,
        config=with_dtype(cut, config.dtype),
        changes={field: None if value is REMOVED else value for field, value in changes.items()},
        shards=shards,
        reinitialized=drawn,
        seed=config.seed,
        notes=tuple(notes),
        full_hash=config.hash,
        trust_remote_code=config.trust_remote_code,
        rewritten=rewritten,
    )
    require_space(target, plan.num_bytes)
    return plan


def cut_tensors(
    checkpoint: Checkpoint,
    blocks: BlockNames,
    selection: Sequence[int],
    dtype: str | None,
    kept: tuple[str, ...],
    *,
    packed: tuple[Packed, ...] = (),
    left_out: frozenset[str] = frozenset(),
) -> list[PlannedTensor]:
    """Plan every tensor outside the blocks and those of the selected blocks, renumbered.

    Args:
        checkpoint: the source.
        blocks: how it names its blocks.
        selection: the blocks that are kept.
        dtype: dtype of the result's floats, or None.
        kept: parts of keys whose tensors keep their own dtype.
        packed: tensors outside the blocks in which every block has a slice.
        left_out: keys of prediction blocks.
    """
    new_number = {old: new for new, old in enumerate(selection)}
    planned = []
    for name, entry in checkpoint.tensors.items():
        if name in left_out:
            continue
        place = blocks.split(name)
        if place is not None:
            if place[0] not in new_number:
                continue
            name = blocks.join(new_number[place[0]], place[1])
        stored = target_dtype(entry.dtype, dtype, name, kept)
        kind = find_packed(name, packed)
        if kind is not None:
            part = Part(entry, blocks.num_blocks, tuple(selection))
            model = checkpoint.location.name
            planned.append(plan_packed(name, kind, [part], stored, model=model))
            continue
        planned.append(
            PlannedTensor(
                name=name,
                dtype=stored,
                shape=entry.shape,
                source=entry,
            )
        )
    return planned
