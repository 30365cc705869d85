"""Stack a shallow model's blocks on one another: the depth-wise start of progressive stacking.

Block i of the deep model begins as block i mod k of the trained shallow one; embeddings, final norm
and head are the shallow one's. Source: Gong et al. 2019, "Efficient Training of BERT by
Progressively Stacking", algorithm 1; a baseline of Inheritune (arXiv 2404.08634).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bequest.checkpoints.publish import check_target, require_space
from bequest.checkpoints.shards import PlannedTensor, plan_shards, with_dtype
from bequest.checkpoints.verify import require_trust
from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import find_blocks
from bequest.inheritance.build import build
from bequest.inheritance.config_cut import (
    cut_config,
    depth_of,
    model_class,
    read_config,
    require_decoder,
)
from bequest.inheritance.identity import build_on_meta, compare_blocks, find_block_modules
from bequest.inheritance.plan import InheritancePlan, in_byte_order


def few_blocks(layers: int) -> int:
    """Return how many blocks are trained first to be stacked to `layers`: half, rounded up."""
    return -(-layers // 2)


def stack(
    few: str | Path,
    reference: str | Path,
    out: str | Path,
    *,
    layers: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> InheritancePlan:
    """Write the model whose blocks are the shallow one's, over and over, whole or not at all.

    Args:
        few: folder of the shallow model, in the shape of the reference's first blocks.
        reference: folder or hub id of the model whose first `layers` blocks give the shape.
        out: folder to write.
        layers: blocks of the result.
        revision: branch, tag or commit of a reference from the hub.
        trust_remote_code: let Python files of the reference's folder run.

    Raises:
        InputError: a model or `out` is at fault; nothing was written.
        UnsupportedModelError: a block would be another one in its new place.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    shallow = open_checkpoint(few)
    deep = open_checkpoint(reference, revision=revision)
    target = check_target(out, overwrite=False, inputs=(shallow.folder, deep.folder))
    name = shallow.location.name
    depth = depth_of(read_config(shallow.config, model=name))
    blocks = find_blocks(shallow.tensors, depth, model=name)
    stacked = tuple(block % depth for block in range(layers))
    planned = []
    for key, entry in shallow.tensors.items():
        place = blocks.split(key)
        names = [key]
        if place is not None:
            names = [blocks.join(b, place[1]) for b, own in enumerate(stacked) if own == place[0]]
        planned += [
            PlannedTensor(name=new, dtype=entry.dtype, shape=entry.shape, source=entry)
            for new in names
        ]
    plan = InheritancePlan(
        operation="stack",
        target=target,
        overwrite=False,
        inputs={"few": shallow, "shape": deep},
        blocks_from="few",
        source_blocks=stacked,
        block_prefix=blocks.prefix,
        config=_stacked_config(shallow, deep, layers),
        changes={},
        shards=plan_shards(in_byte_order(planned), "5GB"),
        reinitialized=(),
        seed=0,
        notes=("A stacked model must be trained before it is of use.",),
        full_hash=False,
        trust_remote_code=trust_remote_code,
    )
    require_space(target, plan.num_bytes)
    return build(plan)


def check_stack(
    reference: str | Path,
    *,
    layers: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Refuse a reference whose blocks are not of one kind, before the few blocks are trained.

    Raises:
        UnsupportedModelError: block i mod k is another kind of block than block i.
    """
    checkpoint = open_checkpoint(reference, revision=revision)
    name = checkpoint.location.name
    require_trust(checkpoint.location, checkpoint.config, trust_remote_code=trust_remote_code)
    if require_decoder(checkpoint.config, model=name).packed:
        raise UnsupportedModelError(
            f"{name} keeps a slice of every block in one tensor, and bequest does not stack those"
        )
    config: Any
    if trust_remote_code:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=True)
    else:
        config = read_config(checkpoint.config, model=name)
    model = build_on_meta(
        config,
        model_class=model_class(checkpoint.config),
        trust_remote_code=trust_remote_code,
    )
    depth, few = depth_of(config), few_blocks(layers)
    prefix = find_blocks(checkpoint.tensors, depth, model=name).prefix
    blocks = find_block_modules(model, prefix, depth)
    compare_blocks(blocks, blocks, [block % few for block in range(layers)], model=name)


def _stacked_config(shallow: Checkpoint, deep: Checkpoint, layers: int) -> dict[str, Any]:
    name = deep.location.name
    architecture = require_decoder(deep.config, model=name)
    cut, _ = cut_config(deep.config, range(layers), architecture, model=name)
    own = shallow.config.get("dtype") or shallow.config.get("torch_dtype")
    return with_dtype(cut, own)
