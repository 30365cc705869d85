"""Average checkpoints of a training run that are on the disk, of any trainer and in any form.

Source: latest weight averaging, LAWA (arXiv 2306.03241): the uniform mean of the k latest
checkpoints, nu steps apart. Its released script averages disjoint blocks of consecutive files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bequest.averaging.average_config import AverageConfig, require_out
from bequest.averaging.build import build
from bequest.averaging.plan import AveragePlan, plan_of
from bequest.averaging.sources import open_members
from bequest.checkpoints.publish import check_target


def average_checkpoints(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    window: int | None = None,
    spacing: int | None = None,
    end: int | None = None,
    coefficients: str | Sequence[float] = "uniform",
    blend: float = 1.0,
    exclude: Sequence[str] = (),
    config_from: str | Path | None = None,
    dtype: str | None = None,
    skip_bad: bool = False,
    verify: bool = False,
    max_shard_size: str | int = "5GB",
    overwrite: bool = False,
    hash: bool = False,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> AveragePlan:
    """Average checkpoints and write the result to a folder, whole or not at all.

    Each element of the result is one float64 sum over the members, oldest first, rounded once.
    Integers and booleans come from the newest. No torch is imported for safetensors checkpoints,
    unless the result has to be verified.

    Args:
        sources: a run's folder, or several checkpoints, oldest first: transformers folders, PEFT
            adapters, state dict files, folders of `torch.distributed.checkpoint`, or hub ids
            written as "id@revision".
        out: folder to write.
        window: how many checkpoints of a run; 5 if None. For checkpoints given one by one, all.
        spacing: steps between them; None takes neighbours.
        end: step of the newest; None for the newest complete checkpoint.
        coefficients: a spec of `bequest.averaging.coefficients`, or the numbers, oldest first.
        blend: share of the average; the rest is the newest checkpoint.
        exclude: regular expressions; matching tensors come from the newest checkpoint.
        config_from: model that gives configuration and tokenizer to state dicts and DCP.
        dtype: "float64", "float32", "float16" or "bfloat16" for all floats; None keeps each as is.
        skip_bad: leave out members that hold NaN or Inf.
        verify: load the planned result on transformers' meta device, too.
        max_shard_size: bytes of one weight file, as a number or such as "5GB".
        overwrite: replace a model that stands at `out`.
        hash: record the SHA-256 of whole weight files in the lineage.
        trust_remote_code: let Python files of the model's folder run during verification.
        progress: show a bar.

    Returns:
        The plan that was carried out.

    Raises:
        InputError: an argument or a checkpoint is at fault; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    spec = (
        coefficients
        if isinstance(coefficients, str)
        else ",".join(repr(float(c)) for c in coefficients)
    )
    config = AverageConfig(
        sources=tuple(map(str, paths)),
        out=str(out),
        window=window,
        spacing=spacing,
        end=end,
        coefficients=spec,
        blend=blend,
        exclude=tuple(exclude),
        config_from=None if config_from is None else str(config_from),
        dtype=dtype,
        skip_bad=skip_bad,
        verify=verify,
        max_shard_size=str(max_shard_size),
        overwrite=overwrite,
        hash=hash,
        trust_remote_code=trust_remote_code,
    )
    return build(plan_average(config), progress=progress)


def plan_average(config: AverageConfig) -> AveragePlan:
    """Decide from headers and configurations what an average will be made of and written to.

    Raises:
        InputError: the request cannot be carried out correctly.
        StorageError: the disk cannot hold the result.
    """
    out = require_out(config)
    mixture = config.mixture
    members, notes = open_members(config)
    target = check_target(
        out,
        overwrite=config.overwrite,
        inputs=tuple(member.weights.location.folder for member in members),
    )
    return plan_of(members, mixture, target, config.manner, notes=notes)
