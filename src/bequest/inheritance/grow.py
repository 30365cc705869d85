"""Grow a student by the next blocks of its teacher.

Source: Inheritune (arXiv 2404.08634), step 3, in the form that keeps what the student has learned:
its own tensors stay, and the teacher's next blocks follow its last one. (The other form, inheriting
more blocks and starting again, is `inherit`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import Checkpoint, open_checkpoint
from bequest.checkpoints.publish import check_target, require_space
from bequest.checkpoints.shards import plan_shards, with_dtype
from bequest.checkpoints.verify import require_trust
from bequest.errors import InputError
from bequest.inheritance.blocks import BlockNames, find_blocks
from bequest.inheritance.build import build
from bequest.inheritance.config_cut import (
    cut_config,
    decoder_config,
    depth_names,
    depth_of,
    read_config,
    require_decoder,
)
from bequest.inheritance.grown_tensors import grown_tensors
from bequest.inheritance.plan import (
    InheritancePlan,
    in_byte_order,
    require_no_adapter,
)
from bequest.inheritance.prediction import COUNTS, LEFT_OUT, prediction_tensors
from bequest.inheritance.quantized import require_unquantized
from bequest.inheritance.selection import describe_layers
from bequest.inheritance.succession import next_blocks

_OWN_FIELDS = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "layerdrop",
    "output_router_logits",
    "pad_token_id",
    "resid_pdrop",
    "router_aux_loss_coef",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
    *COUNTS,
}
"""Fields in which a student may differ from its teacher: in use, blocks compute the same under any."""


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """What `bequest grow` is asked to do."""

    student: str
    """Model to grow: a folder, or a hub id."""
    teacher: str
    """Model that the student's blocks were cut from: a folder, or a hub id."""
    out: str
    """Folder to write."""
    layers: int
    """Blocks that the grown model has in all."""
    from_block: int | None = None
    """First block of the teacher to append; the one after the student's last, by its lineage."""
    dtype: str | None = None
    """Store floats as float64, float32, float16 or bfloat16; the student's own if left out."""
    teacher_revision: str | None = None
    """Branch, tag or commit, if the teacher is a hub id."""
    max_shard_size: str = "5GB"
    """Largest size of one weight file."""
    overwrite: bool = False
    """Replace a model that stands at `out`."""
    hash: bool = False
    """Record the SHA-256 of whole weight files, which takes about as long again."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""


def grow(
    student: str | Path,
    teacher: str | Path,
    out: str | Path,
    *,
    layers: int,
    from_block: int | None = None,
    dtype: str | None = None,
    teacher_revision: str | None = None,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    hash: bool = False,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> InheritancePlan:
    """Append the teacher's next blocks to a student and write the grown model, whole or not at all.

    Args:
        student: folder or hub id of the model to grow; its own tensors stay as they are.
        teacher: folder or hub id of the model that it was cut from.
        out: folder to write.
        layers: blocks that the grown model has in all.
        from_block: first block of the teacher to append. By default the one after the highest of
            the student's `source_blocks`, which its lineage holds.
        dtype: "float64", "float32", "float16" or "bfloat16" for all floats; by default the
            student's tensors keep theirs and the teacher's are converted to match; what has no
            match, such as a float32 bias of experts beside bfloat16, keeps the teacher's.
        teacher_revision: branch, tag or commit of a teacher from the hub.
        max_shard_size: bytes of one weight file, as a number or such as "5GB".
        overwrite: replace a model that stands at `out`.
        hash: record the SHA-256 of whole weight files in the lineage.
        trust_remote_code: let Python files of the models' folders run.
        progress: show a bar.

    Returns:
        The plan that was carried out.

    Raises:
        InputError: an argument, a model or `out` is at fault; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    config = GrowConfig(
        student=str(student),
        teacher=str(teacher),
        out=str(out),
        layers=layers,
        from_block=from_block,
        dtype=dtype,
        teacher_revision=teacher_revision,
        max_shard_size=str(max_shard_size),
        overwrite=overwrite,
        hash=hash,
        trust_remote_code=trust_remote_code,
    )
    return build(plan_grow(config), progress=progress)


def plan_grow(config: GrowConfig) -> InheritancePlan:
    """Decide from headers, configurations and lineage what `grow` will write.

    Raises:
        InputError: the request cannot be carried out correctly.
        StorageError: the disk cannot hold the result.
    """
    student = open_checkpoint(config.student, field="student")
    teacher = open_checkpoint(config.teacher, revision=config.teacher_revision, field="teacher")
    inputs = {"student": student, "teacher": teacher}
    folders = tuple(checkpoint.folder for checkpoint in inputs.values())
    target = check_target(config.out, overwrite=config.overwrite, inputs=folders)
    for checkpoint in inputs.values():
        require_no_adapter(checkpoint)
        require_trust(
            checkpoint.location, checkpoint.config, trust_remote_code=config.trust_remote_code
        )
    own, left_out = _names_of_blocks(student)
    taught, not_taught = _names_of_blocks(teacher)
    notes = [LEFT_OUT] if left_out or not_taught else []
    blocks = next_blocks(
        student,
        teacher,
        depth=own.num_blocks,
        available=taught.num_blocks,
        layers=config.layers,
        from_block=config.from_block,
    )
    grown_config = _grown_config(student, teacher, blocks, own.num_blocks)
    planned = grown_tensors(
        student,
        teacher,
        (own, taught),
        blocks,
        config.dtype,
        read_config(grown_config, model="the result"),
        packed=require_decoder(student.config, model=student.location.name).packed,
        left_out=left_out,
    )
    plan = InheritancePlan(
        operation="grow",
        target=target,
        overwrite=config.overwrite,
        inputs=inputs,
        blocks_from="teacher",
        source_blocks=blocks,
        block_prefix=own.prefix,
        config=with_dtype(grown_config, config.dtype),
        changes={},
        shards=plan_shards(in_byte_order(planned), config.max_shard_size),
        reinitialized=(),
        seed=0,
        notes=(*notes, "The new blocks must be trained together with the others."),
        full_hash=config.hash,
        trust_remote_code=config.trust_remote_code,
    )
    require_space(target, plan.num_bytes)
    return plan


def _names_of_blocks(checkpoint: Checkpoint) -> tuple[BlockNames, frozenset[str]]:
    """Return how a checkpoint names its blocks, and the keys of its prediction blocks."""
    name = checkpoint.location.name
    require_decoder(checkpoint.config, model=name)
    require_unquantized(checkpoint.config, model=name, what="growing")
    read = read_config(checkpoint.config, model=name)
    blocks = find_blocks(checkpoint.tensors, depth_of(read), model=name)
    decoder = decoder_config(read)
    return blocks, prediction_tensors(checkpoint.tensors, blocks, read, decoder, model=name)


def _grown_config(
    student: Checkpoint, teacher: Checkpoint, blocks: Sequence[int], depth: int
) -> dict[str, Any]:
    """Return the student's configuration with the depth and per-block fields of the grown model.

    The teacher's configuration, cut to the student's blocks, must be the student's own: else the
    teacher's blocks would not compute in the student what they do in the teacher.
    """
    name = teacher.location.name
    architecture = require_decoder(teacher.config, model=name)
    as_student, _ = cut_config(teacher.config, blocks[:depth], architecture, model=name)
    own = read_config(student.config, model=student.location.name)
    cut = read_config(as_student, model=name)
    before, after = cut.to_dict(), own.to_dict()
    tied_to_depth = depth_names(own)
    grown, changes = cut_config(teacher.config, blocks, architecture, model=name)
    tied_to_depth |= {*changes, *COUNTS}
    for field in sorted(before.keys() | after.keys()):
        if field in _OWN_FIELDS or before.get(field) == after.get(field):
            continue
        raise InputError(
            f"student and teacher do not fit: config.json field {field!r} is {after.get(field)!r} "
            f"in the student and {before.get(field)!r} in blocks {describe_layers(blocks[:depth])} "
            "of the teacher."
        )
    kept = {field: value for field, value in student.config.items() if field not in tied_to_depth}
    return kept | {field: grown[field] for field in sorted(tied_to_depth) if field in grown}
