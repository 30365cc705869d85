"""One training of an Inheritune run, a round's or a baseline's: what it begins with, and where."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bequest.checkpoints.companions import copy_companions
from bequest.checkpoints.lineage import read_lineage
from bequest.checkpoints.publish import check_target, staged_folder
from bequest.inheritance.config_cut import write_config
from bequest.inheritance.grow import grow
from bequest.inheritance.half_width import half_width
from bequest.inheritance.inherit import InheritConfig, inherit, plan_inherit
from bequest.inheritance.stack import stack
from bequest.training.held_out_losses import FILE_NAME, HeldOutLosses, read_losses
from bequest.training.inheritune_config import InherituneConfig
from bequest.training.pretrain import quiet_library, run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: its start lies in `folder`/start, its model in `folder`/model."""

    folder: Path
    """Of this stage."""
    begins: str
    """With the reference's blocks (`inherit`), with their shape drawn anew (`scratch`), with an
    earlier model and the reference's next blocks (`grow`), with an earlier model's blocks over and
    over (`stack`), or with half of the reference's width (`half-width`)."""
    layers: str
    """The reference's blocks that it has, or whose shape it has, as `bequest inherit` reads them."""
    depth: int
    """How many these are."""
    after: Path | None = None
    """Model of the earlier stage, to `grow` or `stack`."""
    after_depth: int = 0
    """Blocks of that model."""
    times: int = 1
    """How often the steps of a round."""

    @property
    def start(self) -> Path:
        """What it begins with: a model, or of `scratch` a shape."""
        return self.folder / "start"

    @property
    def model(self) -> Path:
        """What it leaves: there or not, and if there, whole."""
        return self.folder / "model"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A finished stage."""

    stage: Stage
    """What was done."""
    tokens: int
    """Tokens that it read."""
    losses: dict[str, HeldOutLosses]
    """Held-out losses of the trained weights and of each average."""


def train_stage(
    config: InherituneConfig, stage: Stage, settings: PretrainConfig, *, progress: bool
) -> Trained:
    """Train a stage, or the rest of it, or only read what it left; its checkpoints go then.

    Args:
        config: of the whole run.
        stage: what to do.
        settings: what `bequest pretrain` is asked.
        progress: show bars.

    Raises:
        InputError: the reference or the data is at fault.
        StorageError: the disk is full or failed.
    """
    if not (stage.model / FILE_NAME).is_file():
        write_start(config, stage)
        run_pretrain(plan_pretrain(settings), progress=progress)
    # Of a run that was killed right after publishing, too.
    if settings.run_folder.is_dir() and not config.keep_checkpoints:
        shutil.rmtree(settings.run_folder)
    tokens = int(read_lineage(stage.model)["settings"]["tokens_read"])
    return Trained(stage=stage, tokens=tokens, losses=read_losses(stage.model))


def cut_of(config: InherituneConfig, layers: str) -> InheritConfig:
    """Return what `bequest inherit` would be asked for some blocks; out is named, not made."""
    return InheritConfig(
        source=config.reference,
        out=str(config.folder / "round-01" / "never"),
        layers=layers,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def write_start(config: InherituneConfig, stage: Stage) -> None:
    """Write what a stage begins with, unless it is there.

    Raises:
        InputError: the reference is at fault.
        StorageError: the disk is full or failed.
    """
    if (stage.start / "config.json").is_file():
        return
    stage.folder.mkdir(parents=True, exist_ok=True)
    trust = config.trust_remote_code
    if stage.begins == "inherit":
        inherit(
            config.reference,
            stage.start,
            layers=stage.layers,
            revision=config.revision,
            trust_remote_code=trust,
        )
    elif stage.begins == "scratch":
        _write_shape(config, stage)
    elif stage.begins == "half-width":
        with quiet_library():
            half_width(config.reference, stage.start, revision=config.revision)
    elif stage.begins == "stack":
        assert stage.after is not None
        stack(
            stage.after,
            config.reference,
            stage.start,
            layers=stage.depth,
            revision=config.revision,
            trust_remote_code=trust,
        )
    else:
        assert stage.begins == "grow" and stage.after is not None
        grow(
            stage.after,
            config.reference,
            stage.start,
            layers=stage.depth,
            from_block=stage.after_depth,
            teacher_revision=config.revision,
            trust_remote_code=trust,
        )


def _write_shape(config: InherituneConfig, stage: Stage) -> None:
    """Write the configuration and the tokenizer of the cut model, without weights."""
    plan = plan_inherit(cut_of(config, stage.layers))
    with staged_folder(check_target(stage.start, overwrite=False)) as folder:
        write_config(plan.config, folder / "config.json")
        copy_companions(plan.home.folder, folder, plan.companions)
