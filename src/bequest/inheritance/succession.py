"""Which blocks of the teacher follow a student's own: decided by the student's lineage."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.lineage import FILE_NAME, identity_hash, read_lineage, structure_hash
from bequest.errors import InputError
from bequest.inheritance.selection import describe_layers


def next_blocks(
    student: Checkpoint,
    teacher: Checkpoint,
    *,
    depth: int,
    available: int,
    layers: int,
    from_block: int | None,
) -> tuple[int, ...]:
    """Return the grown model's blocks as numbers of the teacher's, the student's own first.

    Args:
        student: the model to grow.
        teacher: the model that it was cut from.
        depth: blocks of the student.
        available: blocks of the teacher.
        layers: blocks that the grown model has in all.
        from_block: first block to append; None for the one after the student's last.

    Raises:
        InputError: the student's lineage does not tell, the teacher is another one, or it has too
            few blocks.
    """
    added = layers - depth
    if added < 1:
        raise InputError(
            f"layers is {layers}, but the student has {depth} blocks already; it is the "
            "total of the grown model."
        )
    if from_block is None:
        inherited = _recorded_blocks(student, teacher, depth)
        first = inherited[-1] + 1
    else:
        first = from_block
        inherited = _assumed_blocks(student, depth, first)
    if first + added > available:
        raise InputError(
            f"layers is {layers}: that needs blocks {first} to {first + added - 1} of the "
            f"teacher, which has blocks 0 to {available - 1}."
        )
    return (*inherited, *range(first, first + added))


def _recorded_blocks(student: Checkpoint, teacher: Checkpoint, depth: int) -> tuple[int, ...]:
    name = student.location.name
    if not (student.folder / FILE_NAME).is_file():
        raise InputError(
            f"student {name} has no lineage ({FILE_NAME}), so its next block is unknown; name the "
            "first block of the teacher to append with --from."
        )
    record = read_lineage(student.folder)
    blocks = _blocks_in(record, depth)
    if blocks is None:
        raise InputError(
            f"student {name} has a lineage without the {depth} blocks it was made of; name the "
            "first block of the teacher to append with --from."
        )
    if list(blocks) != list(range(blocks[0], blocks[0] + depth)):
        raise InputError(
            f"student {name} was made of blocks {describe_layers(blocks)}, which do not follow one "
            "another; name the first block of the teacher to append with --from."
        )
    ours = {identity_hash(teacher.tensors), structure_hash(teacher.tensors.values())}
    known = [
        {item[key] for key in ("identity_sha256", "structure_sha256") if key in item}
        for item in record["inputs"]
    ]
    if not any(recorded and recorded <= ours for recorded in known):
        raise InputError(
            f"teacher {teacher.location.name} is not what student {name} was cut from, by its "
            "lineage; name the right one, or the first block to append with --from."
        )
    return blocks


def _assumed_blocks(student: Checkpoint, depth: int, first: int) -> tuple[int, ...]:
    """Return the student's blocks by its lineage, or else those right before `first`."""
    recorded = None
    if (student.folder / FILE_NAME).is_file():
        recorded = _blocks_in(read_lineage(student.folder), depth)
    if recorded is not None and recorded[-1] < first:
        return recorded
    if first < depth:
        raise InputError(
            f"from is {first}, but the student has {depth} blocks; the teacher's block to append "
            f"must be {depth} or a later one."
        )
    return tuple(range(first - depth, first))


def _blocks_in(record: Mapping[str, Any], depth: int) -> tuple[int, ...] | None:
    blocks = record["settings"].get("source_blocks")
    if not isinstance(blocks, list) or len(blocks) != depth:
        return None
    increasing = all(type(block) is int and block >= 0 for block in blocks)
    increasing = increasing and all(a < b for a, b in itertools.pairwise(blocks))
    return tuple(blocks) if increasing else None
