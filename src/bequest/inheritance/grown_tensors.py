"""Every tensor of a grown model: the student's own, then the teacher's next blocks in its dtypes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from bequest.checkpoints import dtypes
from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.shards import PlannedTensor, target_dtype
from bequest.inheritance.blocks import BlockNames
from bequest.inheritance.config_cut import kept_in_float32
from bequest.inheritance.packed import Packed, Part, find_packed, plan_packed


def grown_tensors(
    student: Checkpoint,
    teacher: Checkpoint,
    names: tuple[BlockNames, BlockNames],
    blocks: Sequence[int],
    dtype: str | None,
    config: object,
    *,
    packed: tuple[Packed, ...] = (),
    left_out: frozenset[str] = frozenset(),
) -> list[PlannedTensor]:
    """Plan the student's tensors and those of the teacher's next blocks, renumbered.

    Args:
        student: the model that grows.
        teacher: the model that the new blocks come from.
        names: how the student and the teacher name their blocks.
        blocks: for each block of the result its number in the teacher, the student's own first.
        dtype: dtype of the result's floats; None keeps the student's and converts the teacher's.
        config: the result's transformers configuration.
        packed: tensors outside the blocks in which every block has a slice.
        left_out: the student's keys of prediction blocks.
    """
    own, taught = names
    depth = own.num_blocks
    kept = kept_in_float32(config, dtype)
    planned = []
    stored_as: dict[str, str] = {}
    for name, entry in student.tensors.items():
        if name in left_out:
            continue
        place = own.split(name)
        stored = target_dtype(entry.dtype, dtype, name, kept)
        if place is not None:
            stored_as[place[1]] = stored
        kind = find_packed(name, packed)
        if kind is not None and name in teacher.tensors:
            parts = [
                Part(entry, depth, tuple(range(depth))),
                Part(teacher.tensors[name], taught.num_blocks, tuple(blocks[depth:])),
            ]
            location = teacher.location.name
            planned.append(plan_packed(name, kind, parts, stored, model=location))
            continue
        planned.append(PlannedTensor(name=name, dtype=stored, shape=entry.shape, source=entry))
    new_number = {old: new for new, old in enumerate(blocks) if new >= depth}
    become = None if dtype else _conversions(teacher, taught, stored_as)
    if become:
        kept = _kept_beside(stored_as, config)
    for name, entry in teacher.tensors.items():
        place = taught.split(name)
        if place is None or place[0] not in new_number:
            continue
        joined = own.join(new_number[place[0]], place[1])
        if not dtypes.is_float(entry.dtype):
            stored = entry.dtype
        elif place[1] in stored_as:
            stored = stored_as[place[1]]
        else:
            wanted = become.get(entry.dtype) if become is not None else dtype
            stored = target_dtype(entry.dtype, wanted, joined, kept)
        planned.append(PlannedTensor(name=joined, dtype=stored, shape=entry.shape, source=entry))
    return planned


def _conversions(
    teacher: Checkpoint, taught: BlockNames, stored_as: Mapping[str, str]
) -> dict[str, str]:
    """What the student made of each of the teacher's dtypes, by the kinds of tensor both have.

    A kind that the student's blocks lack, as a dense student of a mixture of experts does, goes the
    way of the others of its dtype. One in a dtype that no shared kind has keeps it: float32 beside
    bfloat16 is there because the model computes with it so.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for name, entry in teacher.tensors.items():
        place = taught.split(name)
        if place is not None and place[1] in stored_as and dtypes.is_float(entry.dtype):
            seen[entry.dtype][stored_as[place[1]]] += 1
    by_name = {stored: name for name, stored in dtypes.CONVERTIBLE.items()}
    most = {before: counted.most_common(1)[0][0] for before, counted in seen.items()}
    return {before: by_name[after] for before, after in most.items() if after in by_name}


def _kept_beside(stored_as: Mapping[str, str], config: object) -> tuple[str, ...]:
    """The modules that transformers holds in float32 in a model of the student's usual dtype."""
    by_name = {stored: name for name, stored in dtypes.CONVERTIBLE.items()}
    usual = Counter(by_name[stored] for stored in stored_as.values() if stored in by_name)
    return kept_in_float32(config, usual.most_common(1)[0][0]) if usual else ()
