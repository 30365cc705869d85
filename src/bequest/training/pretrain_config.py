"""What `bequest pretrain` is asked to do, as one YAML file says it; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.training.average_recipes import TRAINED, average_recipes, check_weights
from bequest.training.distillation_config import read_distillation
from bequest.training.learning_rate import RESERVED, check_schedule

SAMPLE_BY = ("document", "paragraph", "line")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What `bequest pretrain` is asked to do."""

    out: str
    """Folder to write the finished model to."""
    data: str
    """Text: a .txt, .md, .json, .jsonl or .parquet file, a folder of such files, or a hub id."""
    data_name: str | None = None
    """Which configuration of a data set that has several, such as wikitext-2-raw-v1."""
    model: str | None = None
    """The model to begin with: a folder, or a hub id."""
    model_config: dict[str, Any] = field(default_factory=dict)
    """Without model: model_type and fields of its configuration; the weights are drawn. With model
    and from_scratch: fields that replace the model's own."""
    from_scratch: bool = False
    """Take only the shape of model and draw its weights anew, from the seed of training."""
    tokenizer: str | None = None
    """Folder or hub id of a tokenizer, if it is not the model's."""
    train_tokenizer: int | None = None
    """Train a byte-level BPE of so many tokens on the training text instead."""
    split: str = "train"
    """Part of the data, such as train, train[:1000] or train[:10%]; of files, of their documents."""
    text_field: str = "text"
    """The column with the text."""
    sample_by: str = "document"
    """What of a .txt or .md file is one document: document (all of it), paragraph or line."""
    held_out: str | None = None
    """Text to measure on, like data; its documents are not trained on."""
    held_out_name: str | None = None
    """Its configuration, if it is not that of data."""
    held_out_split: str | None = None
    """Part of held_out to measure on, or without held_out of data, such as validation."""
    held_out_fraction: float = 0.01
    """Without these: about which share of the documents is held out, chosen by a hash of each
    text, so that all runs on the same text hold out the same."""
    held_out_bytes: int = 1_000_000
    """Held-out text that is measured at most, of long documents the beginnings; more makes the
    standard error smaller."""
    block_length: int = 1024
    """Tokens of a training sequence."""
    schedule: str = "cosine"
    """Learning rate over the run: cosine, wsd (warm-up, stable, decay), constant, or trainer for
    what training says in lr_scheduler_type."""
    warmup: float = 0.02
    """Steps of linear warm-up, or their share of all steps if below 1."""
    decay: float = 0.2
    """Of wsd: steps of linear decay at the end, or their share."""
    floor: float = 0.1
    """Of cosine and wsd: the last learning rate, as a share of the highest."""
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Averages to keep beside the run: lawa, ema or swa, each with its settings, such as
    {lawa: {window: 5, spacing: 100}}."""
    weights: str = TRAINED
    """Which weights to publish: trained, or the name of an average."""
    fused_loss: bool = True
    """Compute the training loss without ever holding all logits, where the model's loss is the
    plain one; it saves memory and time with large vocabularies. Otherwise the model does it."""
    distillation: dict[str, Any] = field(default_factory=dict)
    """Learn from another model's distribution too: {teacher: FOLDER_OR_HUB_ID, weight: 0.5,
    temperature: 1.0}, the weight being the teacher's share in the loss."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of transformers' TrainingArguments by name, such as learning_rate, max_steps, bf16,
    gradient_checkpointing, torch_compile or report_to."""
    run_dir: str | None = None
    """Folder of the run with its checkpoints; OUT.run if not given."""
    cache_dir: str | None = None
    """Folder for tokenized text, which several runs may share; RUN_DIR/cache if not given."""
    revision: str | None = None
    """Branch, tag or commit, if the model is a hub id."""
    overwrite: bool = False
    """Replace a model that stands at out, and a run of other settings that was broken off."""
    hash: bool = False
    """Record the SHA-256 of whole weight files in the lineage."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        if self.run_dir is not None:
            return Path(self.run_dir).expanduser()
        out = Path(self.out).expanduser()
        return out.with_name(f"{out.name}.run")

    @property
    def cache_folder(self) -> Path:
        """Where tokenized text lies."""
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        return self.run_folder / "cache"


def check_config(config: PretrainConfig) -> None:
    """Refuse what is wrong whatever the model and the data are.

    Raises:
        InputError: a field has a value that it cannot have, or contradicts another.
    """
    check_schedule(config.schedule, config.warmup, config.decay, config.floor)
    check_weights(config.weights, average_recipes(config.averages))
    if read_distillation(config.distillation) is not None and config.train_tokenizer is not None:
        raise InputError(
            "train_tokenizer makes tokens that distillation.teacher does not know; name the "
            "teacher's tokenizer instead"
        )
    if config.schedule != "trainer":
        for name in RESERVED:
            if name in config.training:
                raise InputError(
                    f"training.{name} contradicts schedule {config.schedule}; set schedule: trainer "
                    "to choose it yourself"
                )
    if config.sample_by not in SAMPLE_BY:
        raise InputError(f"sample_by is {config.sample_by!r}; choose one of {', '.join(SAMPLE_BY)}")
    if config.block_length < 2:
        raise InputError(f"block_length is {config.block_length}; give at least 2 tokens")
    own = (config.held_out, config.held_out_name, config.held_out_split)
    if own == (None, None, None) and not 0 < config.held_out_fraction < 1:
        raise InputError(
            f"held_out_fraction is {config.held_out_fraction}; give a share between 0 and 1, or a "
            "file for held_out"
        )
    if config.held_out_bytes < 1:
        raise InputError(f"held_out_bytes is {config.held_out_bytes}; give at least 1")
    if config.from_scratch and config.model is None:
        raise InputError("from_scratch needs model, whose shape it takes; leave it out")
    if config.train_tokenizer is not None:
        if config.tokenizer is not None:
            raise InputError("tokenizer and train_tokenizer exclude each other; choose one")
        if config.model is not None and not config.from_scratch:
            raise InputError(
                f"train_tokenizer would give {config.model} tokens that its weights do not know; "
                "leave it out, or set from_scratch"
            )
