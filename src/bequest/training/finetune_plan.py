"""A fine-tuning run before it starts: all that can be refused without a training step is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.averaging.recipes import Recipe
from bequest.checkpoints.locate import Location
from bequest.checkpoints.model_identity import ContentHashes
from bequest.checkpoints.publish import check_target
from bequest.errors import InputError
from bequest.training.average_recipes import average_recipes
from bequest.training.finetune_config import (
    FinetuneConfig,
    check_config,
    has_evaluation,
)
from bequest.training.finetune_identity import run_identity, sample_hashes
from bequest.training.finetune_model import (
    check_vocabulary,
    count_trained,
    load_skeleton,
    trained_dtype,
)
from bequest.training.response_losses import is_response, row_hashes
from bequest.training.run_folder import RunStart, check
from bequest.training.run_place import CONTENTS, check_place
from bequest.training.score_plan import ScoreConfig, ScorePlan, plan_score

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    from bequest.training.row_weights import Weighing
    from bequest.training.sft_data import TokenizedSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetunePlan:
    """A run that is ready to start."""

    config: FinetuneConfig
    """What was asked."""
    target: Path
    """Where the finished model goes."""
    scoring: ScorePlan
    """The model, its tokenizer, and the training samples as TRL would train on them."""
    held_out: TokenizedSamples | None
    """The samples of evaluations."""
    args: SFTConfig
    """The trainer's settings."""
    weighing: Weighing
    """How the samples are weighed."""
    given_weights: list[float] | None
    """The data set's own column of weights."""
    recipes: Mapping[str, Recipe]
    """The averages to keep."""
    texts: list[str] | None
    """What retention is measured on."""
    dtype: torch.dtype
    """Of the weights while they are trained."""
    model_config: Any
    """The model's configuration."""
    num_trained: int
    """Parameters that are trained."""
    identity: Mapping[str, Any]
    """What must not change when the run is taken up again."""
    contents: ContentHashes
    """What is known of the model's files, so that a run that goes on need not read them all."""
    resume: RunStart
    """How the run would begin as its folder was when it was planned."""

    @property
    def location(self) -> Location:
        """Where the model is."""
        return self.scoring.location

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.config.run_folder

    @property
    def scores_file(self) -> Path | None:
        """Where the run keeps its losses; None if it needs none of its own."""
        needed = self.weighing.needs_scores and self.given_weights is None
        return self.run / "scores.parquet" if needed else None

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each sample that is trained on, before packing."""
        tokenized = self.scoring.tokenized
        pairs = zip(tokenized.input_ids, tokenized.labels, strict=True)
        return np.array([len(ids) for ids, own in pairs if is_response(own).any()], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens that are trained on in an epoch."""
        return int(self.lengths.sum())

    @property
    def num_rows(self) -> int:
        """Rows that the trainer sees in an epoch: samples, or about as many packs as they fill."""
        if self.args.packing:
            return math.ceil(self.num_tokens / int(self.args.max_length))
        return len(self.lengths)

    @property
    def batch_size(self) -> int:
        """Rows that all processes read at once."""
        return int(self.args.per_device_train_batch_size * self.args.world_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        batches = self.num_rows / self.batch_size
        batches = math.floor(batches) if self.args.dataloader_drop_last else math.ceil(batches)
        per_epoch = math.ceil(batches / int(self.args.gradient_accumulation_steps))
        return math.ceil(per_epoch * float(self.args.num_train_epochs))


def plan_finetune(
    config: FinetuneConfig, *, train: Dataset | None = None, progress: bool = False
) -> FinetunePlan:
    """Read and tokenize the data, and refuse what can be refused before anything is written.

    Args:
        config: what is asked.
        train: a data set in memory, instead of `config.data.train`.
        progress: show TRL's bars.

    Raises:
        InputError: the configuration, the model's folder or the data is at fault.
    """
    check_config(config)
    averages = average_recipes(config.averages)
    from bequest.training.finetune_data import check_columns, read_data
    from bequest.training.flow_inputs import WEIGHT, check_args, weighing_of
    from bequest.training.sft_settings import kept_length, make_sft_config, read_settings
    from bequest.training.start_blends import sfa_steps

    config.method.check_adapters(config.lora is not None)
    weighing = weighing_of(config.method, None)
    target = check_target(config.out, overwrite=config.overwrite)
    check_place(config.run_folder, out=target, reads=_reads(config))
    settings = read_settings(config.training, evaluates=has_evaluation(config.data))
    # Also forms the process group, over what the training will use.
    args = make_sft_config(settings, config.run_folder)
    check_args(args)
    texts = _texts(config)
    samples, held_out = read_data(config.data, train)
    check_columns(samples, weighing)
    given = None
    if WEIGHT in samples.column_names:
        given = [float(value) for value in samples[WEIGHT]]
    scoring = plan_score(_score_config(config, args, settings), data=samples, progress=progress)
    check_target(config.out, overwrite=config.overwrite, inputs=(scoring.location.folder,))
    skeleton = load_skeleton(config, scoring)
    check_vocabulary(scoring, skeleton)
    _check_scores(weighing, scoring)
    evaluated = _evaluated(held_out, scoring, kept_length(args), progress=progress)
    contents = ContentHashes(config.run_folder / CONTENTS)
    identity = run_identity(
        config, args, scoring, [given, texts, sample_hashes(evaluated)], contents
    )
    plan = FinetunePlan(
        config=config,
        target=target,
        scoring=scoring,
        held_out=evaluated,
        args=args,
        weighing=weighing,
        given_weights=given,
        recipes=averages,
        texts=texts,
        dtype=trained_dtype(config, scoring),
        model_config=skeleton.config,
        num_trained=count_trained(config, skeleton),
        identity=identity,
        contents=contents,
        resume=check(
            config.run_folder,
            identity,
            overwrite=config.overwrite,
            processes=int(args.world_size),
        ),
    )
    # How many packs there will be is an estimate, by which nothing is refused.
    if args.dataloader_drop_last and not args.packing and plan.num_rows < plan.batch_size:
        raise InputError(
            f"training.dataloader_drop_last drops all {plan.num_rows} samples, which are fewer than "
            f"a batch of {plan.batch_size}; leave it out, or lower per_device_train_batch_size"
        )
    if config.method.sfa:
        sfa_steps(config.method.sfa, plan.num_steps)
    return plan


def _reads(config: FinetuneConfig) -> dict[str, str | Path | None]:
    return {
        "model": config.model,
        "data.train": config.data.train,
        "data.eval": config.data.eval,
        "retention.texts": config.retention.texts,
        "method.scores": config.method.scores,
    }


def _evaluated(
    held_out: Dataset | None, scoring: ScorePlan, max_length: int | None, *, progress: bool
) -> TokenizedSamples | None:
    """Tokenize the samples of evaluations like those that are trained on."""
    if held_out is None:
        return None
    from bequest.training.sft_data import tokenize_samples

    try:
        tokenized = tokenize_samples(
            held_out,
            scoring.tokenizer,
            max_length=max_length,
            settings=scoring.settings,
            progress=progress,
        )
    except InputError as error:
        raise InputError(f"data.eval: {error}") from error
    if not any(is_response(own).any() for own in tokenized.labels):
        raise InputError("data.eval has not one response token; check its masks")
    return tokenized


def _texts(config: FinetuneConfig) -> list[str] | None:
    if config.retention.texts is None:
        return None
    from bequest.evaluation.held_out import read_texts

    try:
        return read_texts(config.retention.texts)
    except InputError as error:
        raise InputError(f"retention.{error}") from error


def _score_config(config: FinetuneConfig, args: Any, settings: Mapping[str, Any]) -> ScoreConfig:
    """Say what is to be scored; where nothing is, this is how the samples are prepared."""
    from bequest.training.method import UNSCORED
    from bequest.training.sft_settings import kept_length, scored_settings

    scheme = config.method.scheme or "flow"
    temperature = config.method.temperature
    unscored = scheme in UNSCORED or not scheme.startswith("flow")
    return ScoreConfig(
        model=config.model,
        data=config.data.train,
        scheme="uniform" if scheme in UNSCORED else scheme,
        temperature="median" if temperature is None or unscored else str(temperature),
        tokens=False,
        data_name=config.data.name,
        split=config.data.split,
        max_length=kept_length(args) or 0,
        sft=tuple(
            f"{name}={json.dumps(value)}" for name, value in scored_settings(settings).items()
        ),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def _check_scores(weighing: Weighing, scoring: ScorePlan) -> None:
    """Join the given scores to the samples now, though the trainer does it again."""
    from bequest.training.row_weights import weights_by_hash
    from bequest.weighting.score_file import ScoreTable

    table = weighing.scores
    if not isinstance(table, ScoreTable):
        return
    tokenized = scoring.tokenized
    rows = [row for row, own in enumerate(tokenized.labels) if is_response(own).any()]
    hashes = row_hashes(
        [tokenized.input_ids[row] for row in rows], [tokenized.labels[row] for row in rows]
    )
    weights = weights_by_hash(table, weighing, hashes, np.array(rows, dtype=np.int64))
    if not any(np.any(own) for own in weights):
        raise InputError("method.scores gives no sample of data.train a weight above 0")
