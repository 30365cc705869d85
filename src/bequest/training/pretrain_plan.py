"""What a pre-training run will do: everything about it that can be refused before a file is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from bequest.averaging.recipes import Recipe
from bequest.checkpoints.model_identity import ContentHashes
from bequest.checkpoints.publish import check_target
from bequest.errors import InputError
from bequest.training.average_recipes import average_recipes
from bequest.training.distillation_config import DistillationConfig, read_distillation
from bequest.training.distillation_teacher import distillation_record, find_teacher
from bequest.training.documents import Documents, asked_documents
from bequest.training.pretrain_arguments import read_settings
from bequest.training.pretrain_config import PretrainConfig, check_config
from bequest.training.pretrain_disk import DiskNeed, disk_need
from bequest.training.run_folder import RunStart, check
from bequest.training.run_length import RunLength, check_length, estimated_length
from bequest.training.run_place import CONTENTS, check_place
from bequest.training.starting_model import (
    StartingModel,
    find_start,
    fit_to_tokenizer,
    load_tokenizer,
)
from bequest.training.throughput import flops_per_token, peak_flops
from bequest.training.token_blocks import end_of_sequence, fingerprint
from bequest.training.tokenizer_training import check_size
from bequest.training.training_arguments import make_arguments

_WITHOUT_EFFECT = (
    "report_to",
    "run_name",
    "logging_dir",
    "logging_nan_inf_filter",
    "save_total_limit",
    "log_level",
)
"""Settings that may change when a run is resumed: they decide no number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainPlan:
    """A run that can begin: all that could be refused without training has been."""

    config: PretrainConfig
    """What was asked."""
    target: Path
    """Real path of the folder to write."""
    start: StartingModel
    """The model to begin with."""
    documents: Documents
    """What is trained on and what is held out."""
    tokenizer: PreTrainedTokenizerBase | None
    """Its tokenizer; None if it is yet to be trained."""
    tokenizer_folder: Path | None
    """Where a trained tokenizer is cached."""
    distillation: DistillationConfig | None
    """How a teacher's distribution counts; None without a teacher."""
    teacher: StartingModel | None
    """The teacher."""
    recipes: Mapping[str, Recipe]
    """Averages to keep."""
    settings: Mapping[str, Any]
    """Arguments of the trainer by name, without those of the schedule."""
    arguments: TrainingArguments
    """The trainer's arguments; the schedule's are those of `length`."""
    record: Mapping[str, Any]
    """Everything that decides the run's numbers."""
    contents: ContentHashes
    """What is known of the models' files, so that a run that goes on need not read them all."""
    resume: RunStart
    """How it would begin as its folder was when it was planned."""
    length: RunLength
    """How long the run is, as far as it is known without tokenizing everything."""

    @property
    def goes_on(self) -> bool:
        """Whether the run's folder holds this very run already."""
        return self.resume.goes_on

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.config.run_folder

    @property
    def cache(self) -> Path:
        """Where tokenized text lies."""
        return self.config.cache_folder

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return int(self.start.skeleton().num_parameters())

    def memory(self) -> tuple[int, int]:
        """Return bytes of weights, gradients and AdamW's state, and of one micro-batch's logits."""
        vocabulary = self.start.config.get_text_config().vocab_size
        tokens = self.arguments.per_device_train_batch_size * self.config.block_length
        # The model's own, their float32 copy, and the gradient of that.
        kind = 2 if self.arguments.bf16 or self.arguments.fp16 else 4
        return 16 * self.num_parameters, tokens * vocabulary * (kind + 4 + 4)

    def disk(self, length: RunLength | None = None) -> DiskNeed:
        """Return what the run writes, by its length as planned or as it turned out to be."""
        return disk_need(self.arguments, self.recipes, length or self.length, self.num_parameters)

    @property
    def num_teacher_parameters(self) -> int:
        """Of the teacher, which stays in memory in float32; 0 without one."""
        return 0 if self.teacher is None else int(self.teacher.skeleton().num_parameters())

    def flops_per_token(self) -> float | None:
        """Return the FLOPs of training on one token, the teacher's forward pass included."""
        flops = flops_per_token(self.start.skeleton(), self.config.block_length)
        if flops is None or self.teacher is None:
            return flops
        taught = flops_per_token(self.teacher.skeleton(), self.config.block_length)
        # Of three such passes, two are the backward one.
        return None if taught is None else flops + taught / 3

    def least_seconds(self) -> float | None:
        """Return how long training takes at the device's full arithmetic; None if not known."""
        flops = self.flops_per_token()
        if flops is None:
            return None
        peak, _ = peak_flops(self.arguments.device, training_dtype(self.arguments))
        return self.length.tokens_trained * flops / peak / int(self.arguments.world_size)


def plan_pretrain(
    config: PretrainConfig,
    *,
    data: Dataset | None = None,
    held_out: Dataset | None = None,
) -> PretrainPlan:
    """Read the data and the model's configuration, and refuse what can be refused; writes nothing.

    Args:
        config: what is asked.
        data: a data set in memory, instead of `config.data`.
        held_out: likewise, instead of `config.held_out`.

    Raises:
        InputError: a field, the model, the tokenizer, the data or the run's folder is at fault.
    """
    check_config(config)
    recipes = average_recipes(config.averages)
    settings = read_settings(config.training)
    target = check_target(config.out, overwrite=config.overwrite)
    check_place(config.run_folder, out=target, reads=read_paths(config))
    start = find_start(
        config.model,
        config.model_config,
        from_scratch=config.from_scratch,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    tokenizer = None
    if config.train_tokenizer is None:
        tokenizer = load_tokenizer(config.tokenizer, start)
        end_of_sequence(tokenizer)
    else:
        check_size(config.train_tokenizer)
    _check_positions(start, config.block_length)
    arguments = make_arguments(TrainingArguments, settings, config.run_folder)
    documents = asked_documents(config, data=data, held_out=held_out)
    folder = None
    if config.train_tokenizer is not None:
        folder = config.cache_folder / f"tokenizer-{documents.fingerprint}-{config.train_tokenizer}"
        if (folder / "tokenizer.json").is_file():
            tokenizer = load_tokenizer(str(folder), start)
    size = len(tokenizer) if tokenizer is not None else int(config.train_tokenizer or 0)
    fit_to_tokenizer(start, tokenizer, size, config.model_config)
    distillation, teacher = read_distillation(config.distillation), None
    if distillation is not None:
        teacher = find_teacher(
            distillation,
            start=start,
            tokenizer=_required(tokenizer),
            block_length=config.block_length,
            settings=settings,
            trust_remote_code=config.trust_remote_code,
        )
    length = estimated_length(config, arguments, documents, tokenizer)
    # Of an estimated length only this is certain.
    if arguments.max_steps > 0 or length.exact or length.steps < 1:
        check_length(config, recipes, length)
    contents = ContentHashes(config.run_folder / CONTENTS)
    record = _record(config, settings, documents, tokenizer, arguments.world_size)
    if start.checkpoint is not None:
        record["contents of model"] = contents.identity(start.checkpoint)[:16]
    if distillation is not None and teacher is not None:
        record["distillation"] = distillation_record(distillation, teacher, contents)
    return PretrainPlan(
        config=config,
        target=target,
        start=start,
        documents=documents,
        tokenizer=tokenizer,
        tokenizer_folder=folder,
        distillation=distillation,
        teacher=teacher,
        recipes=recipes,
        settings=settings,
        arguments=arguments,
        record=record,
        contents=contents,
        resume=check(
            config.run_folder,
            record,
            overwrite=config.overwrite,
            processes=arguments.world_size,
        ),
        length=length,
    )


def read_paths(config: PretrainConfig) -> dict[str, str | Path | None]:
    """Return what a run reads, a path, a hub id or nothing, by the fields that name it."""
    return {
        "model": config.model,
        "tokenizer": config.tokenizer,
        "data": config.data,
        "held_out": config.held_out,
        "distillation.teacher": (config.distillation or {}).get("teacher"),
    }


def training_dtype(arguments: TrainingArguments) -> torch.dtype:
    """Return the dtype of the trainer's matrix products."""
    if arguments.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.fp16 else torch.float32


def _check_positions(start: StartingModel, block_length: int) -> None:
    room = getattr(start.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and block_length > room:
        raise InputError(
            f"block_length is {block_length}, but the model has {room} positions; give less, or for a "
            "model from scratch more max_position_embeddings"
        )


def _record(
    config: PretrainConfig,
    settings: Mapping[str, Any],
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase | None,
    world_size: int,
) -> dict[str, Any]:
    left_out = {"out", "run_dir", "cache_dir", "overwrite", "hash", "training", "weights"}
    # What they name is told by its fingerprint.
    left_out |= {"data", "data_name", "split", "held_out", "held_out_name", "held_out_split"}
    left_out |= {"tokenizer", "revision", "distillation"}
    asked = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in left_out
    }
    kept = {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT}
    text = None if config.train_tokenizer else fingerprint(documents, _required(tokenizer))
    return {
        **asked,
        "training": {name: kept[name] for name in sorted(kept)},
        "text": text or documents.fingerprint,
        "processes": world_size,
    }


def _required(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    assert tokenizer is not None
    return tokenizer
