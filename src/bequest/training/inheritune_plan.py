"""What an Inheritune run will do: all of it that can be refused before a file is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.inheritance.inherit import plan_inherit
from bequest.results import Section
from bequest.training.average_recipes import TRAINED
from bequest.training.inheritune_baselines import check_baselines
from bequest.training.inheritune_config import InherituneConfig, check_inheritune
from bequest.training.inheritune_stage import Stage, cut_of
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import PretrainPlan, plan_pretrain, read_paths
from bequest.training.run_folder import check
from bequest.training.run_place import check_place


@dataclass(frozen=True, kw_only=True, eq=False)
class InheritunePlan:
    """A run that can begin or go on."""

    config: InherituneConfig
    """What was asked."""
    depths: tuple[int, ...]
    """Blocks of each round, as far as the budget of rounds and the reference's depth go."""
    reference_depth: int
    """Blocks of the reference."""
    reference: PretrainPlan
    """How the reference is measured: the plan of a round with all its blocks."""
    record: Mapping[str, Any]
    """Everything that decides the run's numbers."""
    goes_on: bool
    """Whether out holds this very run already."""

    def round_stage(self, number: int) -> Stage:
        """Return the training of a round, counted from 0."""
        depth, goes_on = self.depths[number], self.config.growth == "continue"
        stage = Stage(
            folder=self.config.folder / f"round-{number + 1:02d}",
            begins="inherit",
            layers=str(depth),
            depth=depth,
        )
        if number == 0 or not goes_on:
            return stage
        before = self.round_stage(number - 1)
        return dataclasses.replace(
            stage, begins="grow", after=before.model, after_depth=before.depth
        )

    def settings(self, stage: Stage) -> PretrainConfig:
        """Return what `bequest pretrain` is asked in a stage."""
        asked = _asked(self.config, out=stage.model, model=stage.start)
        training = dict(asked.training)
        arguments = self.reference.arguments
        if stage.times > 1 and arguments.max_steps > 0:
            training["max_steps"] = arguments.max_steps * stage.times
        elif stage.times > 1:
            training["num_train_epochs"] = arguments.num_train_epochs * stage.times
        scratch = stage.begins == "scratch"
        return dataclasses.replace(
            asked,
            training=training,
            from_scratch=scratch,
            # A model from scratch would have the tokenizer's vocabulary, not its reference's.
            model_config={"vocab_size": self._vocabulary} if scratch and self._is_padded else {},
        )

    @property
    def _vocabulary(self) -> int:
        return int(self.reference.start.config.get_text_config().vocab_size)

    @property
    def _is_padded(self) -> bool:
        assert self.reference.tokenizer is not None
        return len(self.reference.tokenizer) != self._vocabulary

    @property
    def candidate(self) -> str:
        """Which weights of a round count: trained, or the name of an average."""
        return str(self.config.pretrain.get("weights") or TRAINED)

    def section(self) -> Section:
        """Return the plan as a table."""
        length, of = self.reference.length, self.reference
        about = "" if length.exact else " (estimated)"
        rows: list[list[str | int | float | None]] = [
            ["reference", self.config.reference],
            ["blocks of the reference", self.reference_depth],
            ["blocks of the rounds at most", ", ".join(map(str, self.depths))],
            ["a further round", self.config.growth],
            ["candidate", self.candidate],
            ["documents to train on", len(of.documents.training)],
            ["documents held out", len(of.documents.held_out)],
            [f"tokens of training text{about}", length.training_tokens],
            [f"tokens held out{about}", length.held_out_tokens],
            ["steps a round" + ("" if of.arguments.max_steps > 0 else about), length.steps],
            ["tokens a round", length.tokens_trained],
            [f"epochs a round{about}", length.epochs],
            ["memory of a micro-batch's logits, at most (GB)", of.memory()[1] / 1e9],
        ]
        if of.teacher is not None and of.distillation is not None:
            rows.append(["teacher", of.distillation.teacher])
            rows.append(["memory of the teacher (GB)", 4 * of.num_teacher_parameters / 1e9])
        return Section(
            title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows}
        )


def plan_inheritune(config: InherituneConfig) -> InheritunePlan:
    """Read the reference's configuration and the data, and refuse what can be; writes nothing.

    Raises:
        InputError: a field, the reference, the data or out is at fault.
    """
    check_inheritune(config)
    asked_of = _asked(config, out=config.folder / "reference" / "model", model=config.reference)
    reads = {"reference": config.reference, **read_paths(asked_of)}
    check_place(config.folder, reads=reads, field="out")
    reference = plan_pretrain(asked_of)
    if reference.arguments.world_size > 1:
        raise InputError(
            f"inheritune runs in one process, and {reference.arguments.world_size} were started; "
            "run the rounds with bequest inherit and bequest pretrain"
        )
    if len(reference.documents.held_out) < 2:
        raise InputError(
            "held_out gives one document, and the stopping rule needs several; give more documents, "
            "or pretrain.sample_by: paragraph"
        )
    depth = int(reference.start.config.get_text_config().num_hidden_layers)
    first = config.start_depth or max(1, depth // 2)
    if first > depth:
        raise InputError(f"start_depth is {first}, but the reference has {depth} blocks")
    depths = tuple(dict.fromkeys([*range(first, depth, config.blocks_per_round), depth]))
    # What cannot be cut is refused now, and not when its round comes.
    for layers in depths[: config.max_rounds]:
        plan_inherit(cut_of(config, str(layers)))
    check_baselines(config, depths[: config.max_rounds], depth)
    left_out = {
        "out",
        "overwrite",
        "max_rounds",
        "max_tokens",
        "pretrain",
        "reference",
        "baselines",
        "keep_checkpoints",
    }
    asked = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in left_out
    }
    record = {**asked, "start_depth": first, "candidate": reference.config.weights}
    record |= {"round": dict(reference.record)}
    return InheritunePlan(
        config=config,
        depths=depths[: config.max_rounds],
        reference_depth=depth,
        reference=reference,
        record=record,
        goes_on=check(config.folder, record, overwrite=config.overwrite, field="out").goes_on,
    )


def _asked(config: InherituneConfig, *, out: Path, model: str | Path) -> PretrainConfig:
    known = {field.name for field in dataclasses.fields(PretrainConfig)}
    for name in config.pretrain:
        if name not in known:
            raise InputError(f"pretrain.{name} is no setting of bequest pretrain; leave it out")
    if "data" not in config.pretrain:
        raise InputError("pretrain.data is missing; name the text to train on")
    settings = dict(config.pretrain)
    if config.steps_per_round is not None:
        settings["training"] = {
            **(settings.get("training") or {}),
            "max_steps": config.steps_per_round,
        }
    if settings.get("distillation") and "teacher" not in settings["distillation"]:
        teacher = {"teacher": config.reference, "revision": config.revision}
        settings["distillation"] = {**settings["distillation"], **teacher}
    return PretrainConfig(
        **settings,
        out=str(out),
        model=str(model),
        cache_dir=str(config.folder / "cache"),
        revision=config.revision if model == config.reference else None,
        trust_remote_code=config.trust_remote_code,
    )
