"""The student's rivals: how each begins, and which references can have them.

| baseline | begins with |
|---|---|
| scratch, scratch-2x | the student's shape drawn anew; one and two times the steps |
| stacking | half of its blocks drawn anew and trained as long, then these twice on one another |
| last-blocks | as many of the reference's last blocks |
| every-other | as many of the reference's blocks, evenly apart, the first among them |
| half-width | all of the reference's blocks, the first half of heads, neurons and dimensions |

Source: Inheritune (arXiv 2404.08634), section 4, for scratch, stacking and half-width, whose details
(halves, which half) are our reading; last-blocks and every-other ask whether it matters which blocks
are inherited.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bequest.errors import InputError, UnsupportedModelError
from bequest.inheritance.half_width import check_half_width
from bequest.inheritance.inherit import plan_inherit
from bequest.inheritance.selection import layers_as_text
from bequest.inheritance.stack import check_stack, few_blocks
from bequest.training.inheritune_config import InherituneConfig
from bequest.training.inheritune_stage import Stage, cut_of


def baseline_folder(config: InherituneConfig, name: str, depth: int) -> Path:
    """Return a baseline's folder, by the student's depth: a further round brings further ones."""
    return config.folder / "baselines" / f"{depth:02d}-blocks" / name


def baseline_stages(
    config: InherituneConfig, name: str, depth: int, reference_depth: int
) -> tuple[Stage, ...]:
    """Return the trainings of a baseline, the last of which is what is compared.

    Args:
        config: of the whole run.
        name: of the baseline.
        depth: blocks of the student.
        reference_depth: blocks of the reference.
    """
    folder = baseline_folder(config, name, depth)
    first = str(depth)
    if name in ("scratch", "scratch-2x"):
        times = 2 if name == "scratch-2x" else 1
        return (Stage(folder=folder, begins="scratch", layers=first, depth=depth, times=times),)
    if name == "stacking":
        few = few_blocks(depth)
        one = Stage(folder=folder / "few", begins="scratch", layers=str(few), depth=few)
        return (
            one,
            Stage(
                folder=folder,
                begins="stack",
                layers=first,
                depth=depth,
                after=one.model,
                after_depth=few,
            ),
        )
    if name == "half-width":
        whole = str(reference_depth)
        return (Stage(folder=folder, begins=name, layers=whole, depth=reference_depth),)
    chosen = (
        range(reference_depth - depth, reference_depth)
        if name == "last-blocks"
        else [block * reference_depth // depth for block in range(depth)]
    )
    return (
        Stage(folder=folder, begins="inherit", layers=layers_as_text(list(chosen)), depth=depth),
    )


def check_baselines(config: InherituneConfig, depths: Sequence[int], reference_depth: int) -> None:
    """Refuse baselines that the reference cannot have at the depths that the rounds may end with.

    Raises:
        InputError: there is one; the sentence says which and why.
    """
    planned: set[str] = set()
    for name in config.baselines:
        try:
            if name == "half-width":
                check_half_width(config.reference, revision=config.revision)
            for depth in depths:
                for stage in baseline_stages(config, name, depth, reference_depth):
                    if stage.layers not in planned:
                        plan_inherit(cut_of(config, stage.layers))
                    planned.add(stage.layers)
                if name == "stacking":
                    check_stack(
                        config.reference,
                        layers=depth,
                        revision=config.revision,
                        trust_remote_code=config.trust_remote_code,
                    )
        except (UnsupportedModelError, InputError) as error:
            reason = str(error).rstrip(".")
            raise InputError(
                f"baselines has {name}, which this reference cannot have: {reason}; leave it out"
            ) from error
