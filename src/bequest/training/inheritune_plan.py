"""What an Inheritune run will do: all of it that can be refused before a file is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.inheritance.inherit import InheritConfig, plan_inherit
from bequest.results import Section
from bequest.training.average_recipes import TRAINED
from bequest.training.inheritune_config import InherituneConfig, check_inheritune
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import PretrainPlan, plan_pretrain
from bequest.training.resume import check_run


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

    def round_folder(self, number: int) -> Path:
        """Return the folder of a round, counted from 0."""
        return self.config.folder / f"round-{number + 1:02d}"

    def round_config(self, number: int) -> PretrainConfig:
        """Return what `bequest pretrain` is asked in a round."""
        folder = self.round_folder(number)
        return _round(self.config, out=folder / "model", model=folder / "start")

    @property
    def candidate(self) -> str:
        """Which weights of a round count: trained, or the name of an average."""
        return str(self.config.pretrain.get("weights") or TRAINED)

    def section(self) -> Section:
        """Return the plan as a table."""
        length = self.reference.length
        rows: list[list[str | int | float | None]] = [
            ["reference", self.config.reference],
            ["blocks of the reference", self.reference_depth],
            ["blocks of the rounds at most", ", ".join(map(str, self.depths))],
            ["a further round", self.config.growth],
            ["candidate", self.candidate],
            ["steps a round", length.steps],
            ["tokens a round", length.tokens_trained],
            ["held-out tokens", length.held_out_tokens],
        ]
        return Section(
            title="Plan", type="table", data={"columns": ["what", "value"], "rows": rows}
        )


def plan_inheritune(config: InherituneConfig) -> InheritunePlan:
    """Read the reference's configuration and the data, and refuse what can be; writes nothing.

    Raises:
        InputError: a field, the reference, the data or out is at fault.
    """
    check_inheritune(config)
    reference = plan_pretrain(
        _round(config, out=config.folder / "reference" / "model", model=config.reference)
    )
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
        plan_inherit(
            InheritConfig(
                source=config.reference,
                out=str(config.folder / "round-01" / "never"),
                layers=str(layers),
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
            )
        )
    left_out = {"out", "overwrite", "max_rounds", "max_tokens", "pretrain", "reference"}
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
        goes_on=check_run(config.folder, record, overwrite=config.overwrite),
    )


def _round(config: InherituneConfig, *, out: Path, model: str | Path) -> PretrainConfig:
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
    return PretrainConfig(
        **settings,
        out=str(out),
        model=str(model),
        cache_dir=str(config.folder / "cache"),
        revision=config.revision if model == config.reference else None,
        trust_remote_code=config.trust_remote_code,
    )
