"""Average checkpoints of a training run that are on the disk, of any trainer and in any form.

Source: latest weight averaging, LAWA (arXiv 2306.03241): the uniform mean of the k latest
checkpoints, nu steps apart. Its released script averages disjoint blocks of consecutive files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.averaging.alike import Member
from bequest.averaging.build import build
from bequest.averaging.mixture import Mixture
from bequest.averaging.plan import AveragePlan, Manner, plan_of
from bequest.averaging.trajectory import DEFAULT_WINDOW, Window, choose
from bequest.checkpoints.formats import open_weights
from bequest.checkpoints.publish import check_target
from bequest.checkpoints.run import (
    RunCheckpoint,
    find_checkpoints,
    incompleteness,
    marks_of,
    step_of,
)
from bequest.errors import CheckpointError, InputError


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """What `bequest average` is asked to do."""

    sources: tuple[str, ...] = ()
    """Folder of a run with checkpoint-N, stepN or iterN in it, or the checkpoints themselves, oldest
    first; then the folder to write."""
    out: str | None = None
    """Folder to write, if it is not given by place."""
    window: int | None = None
    """Checkpoints to average (default: 5 of a run)."""
    spacing: int | None = None
    """Steps between them; the newest checkpoints, as they are, if left out."""
    end: int | None = None
    """Step of the newest one; the newest complete checkpoint if left out."""
    coefficients: str = "uniform"
    """uniform, linear, ema:ALPHA, decay:CURVE (linear, cosine, 1-sqrt, inverse-sqrt or factors),
    qam:SPEC, or the numbers themselves, oldest first."""
    blend: float = 1.0
    """Share of the average, 0 to 1; the rest is the newest checkpoint."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; tensors whose names they match are taken from the newest checkpoint."""
    repo: str | None = None
    """Hub repository whose revisions are averaged, instead of a run."""
    revisions: str | None = None
    """Its revisions, oldest first, such as step1000,step2000."""
    config_from: str | None = None
    """Model whose configuration and tokenizer the result gets, for checkpoints without their own."""
    dtype: str | None = None
    """Store floats as float64, float32, float16 or bfloat16; the checkpoints' own if left out."""
    sliding: bool = False
    """Make the average that ends at every checkpoint of the run, each in OUT/step-N."""
    search: bool = False
    """Try windows and spacings against --texts, and write the best average."""
    follow: bool = False
    """Watch the folder of a run that goes on, and write OUT/step-N for each new checkpoint."""
    texts: str | None = None
    """Held-out text to evaluate on: a .jsonl file with a field "text", or a .txt file."""
    discard: bool = False
    """With --sliding: only evaluate the averages, keep none."""
    windows: str | None = None
    """With --search: sizes to try, such as 2,5,10 (default: 1,2,3,5,8,12)."""
    spacings: str | None = None
    """With --search: steps between members to try, such as 500,1000."""
    keep: int = 1
    """With --follow: how many averages stay in OUT."""
    poll: float = 5.0
    """With --follow: seconds between two looks at the run's folder."""
    skip_bad: bool = False
    """Leave out checkpoints that hold NaN or Inf instead of refusing them."""
    verify: bool = False
    """Let transformers load the planned result; without a configuration of their own it always does."""
    max_shard_size: str = "5GB"
    """Largest size of one weight file."""
    overwrite: bool = False
    """Replace a model that stands at the folder to write."""
    hash: bool = False
    """Record the SHA-256 of whole weight files, which takes longer than the average."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run when the result is verified."""

    @property
    def mixture(self) -> Mixture:
        """How the members are weighted."""
        return Mixture(coefficients=self.coefficients, blend=self.blend, exclude=self.exclude)

    @property
    def manner(self) -> Manner:
        """How the result is stored and checked."""
        return Manner(
            dtype=self.dtype,
            config_from=self.config_from,
            max_shard_size=self.max_shard_size,
            overwrite=self.overwrite,
            full_hash=self.hash,
            verify=self.verify,
            trust_remote_code=self.trust_remote_code,
            skip_bad=self.skip_bad,
        )


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


def require_out(config: AverageConfig) -> str:
    """Return the folder to write.

    Raises:
        InputError: it is not given.
    """
    if config.out is None:
        raise InputError("out is missing; name the folder to write last.")
    return config.out


def open_members(config: AverageConfig) -> tuple[list[Member], list[str]]:
    """Open the checkpoints that a request names, oldest first.

    Returns:
        The members, and sentences that the user must read.

    Raises:
        InputError: there are no such checkpoints, or one is not complete.
    """
    if config.repo is not None:
        return _open_revisions(config), []
    if config.revisions is not None:
        raise InputError(
            f"revisions is {config.revisions!r} without a repository; give --repo, too."
        )
    if not config.sources:
        raise InputError(
            "sources is empty; name a run's folder, or checkpoints, and then the folder to write."
        )
    if len(config.sources) == 1:
        return _open_run(config)
    return _open_given(config), []


def complete_checkpoints(
    run: Path, marks: set[str] | None = None
) -> tuple[list[RunCheckpoint], dict[int, str]]:
    """List a run's checkpoints, and what those that are not complete lack, by step.

    Args:
        run: the run's folder.
        marks: what each must have besides weights; found in the run if None.
    """
    found = find_checkpoints(run)
    marks = marks_of(checkpoint.path for checkpoint in found) if marks is None else marks
    faults = {c.step: incompleteness(c.path, marks=marks) for c in found}
    return list(found), {step: fault for step, fault in faults.items() if fault is not None}


def _open_run(config: AverageConfig) -> tuple[list[Member], list[str]]:
    run = Path(config.sources[0]).expanduser()
    size = DEFAULT_WINDOW if config.window is None else config.window
    window = Window(size=size, spacing=config.spacing)
    found = {checkpoint.step: checkpoint.path for checkpoint in find_checkpoints(run)}
    marks = marks_of(found.values())
    notes = []
    usable = sorted(found)
    # A run that is going on, or that was killed, may end in a checkpoint that is not whole.
    while config.end is None and usable:
        fault = incompleteness(found[usable[-1]], marks=marks)
        if fault is None:
            break
        notes.append(f"{found[usable.pop()]} was left out: it {fault}.")
    if found and not usable:
        raise CheckpointError(f"run {run} has no complete checkpoint: {notes[0]}")
    steps = choose(window, usable, config.end, run=str(run))
    for step in steps:
        fault = incompleteness(found[step], marks=marks)
        if fault is not None:
            raise CheckpointError(f"{found[step]} {fault}; name a window without it.")
    return [Member(weights=open_weights(found[step]), step=step) for step in steps], notes


def _open_given(config: AverageConfig) -> list[Member]:
    _refuse_window(config, "checkpoints given one by one", len(config.sources))
    members = []
    for source in config.sources:
        name, _, revision = source.partition("@") if not Path(source).exists() else (source, "", "")
        weights = open_weights(name, revision=revision or None)
        members.append(Member(weights=weights, step=step_of(revision or Path(source).name)))
    steps = [member.step for member in members if member.step is not None]
    if len(steps) == len(members) and steps != sorted(set(steps)):
        raise InputError(
            f"sources have the steps {', '.join(map(str, steps))}; name them oldest first and once."
        )
    return members


def _open_revisions(config: AverageConfig) -> list[Member]:
    if config.sources:
        raise InputError(
            f"repo is {config.repo!r}, and sources {', '.join(config.sources)}: give one of them."
        )
    revisions = [name.strip() for name in (config.revisions or "").split(",") if name.strip()]
    if not revisions:
        raise InputError("revisions is empty; give them oldest first, such as step1000,step2000.")
    _refuse_window(config, "revisions", len(revisions))
    return [
        Member(
            weights=open_weights(str(config.repo), revision=revision),
            step=step_of(revision),
        )
        for revision in revisions
    ]


def _refuse_window(config: AverageConfig, what: str, count: int) -> None:
    for field in ("spacing", "end"):
        if getattr(config, field) is not None:
            raise InputError(
                f"{field} is {getattr(config, field)}, but {what} are averaged as they are named; "
                "leave it out."
            )
    if config.window not in (None, count):
        raise InputError(f"window is {config.window}, but there are {count} {what}.")
