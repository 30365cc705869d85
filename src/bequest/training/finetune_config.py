"""What `bequest finetune` is asked to do, as one YAML file says it; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.training.average_recipes import TRAINED, average_recipes, check_weights
from bequest.training.method import MethodConfig

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, and what evaluations read."""

    train: str
    """The data set: a .json, .jsonl or .parquet file, a folder, or a hub id."""
    name: str | None = None
    """Which configuration of a data set that has several, such as main of openai/gsm8k."""
    split: str = "train"
    """Part of it, such as train or train[:1000]."""
    eval: str | None = None
    """Data to evaluate on, named like train."""
    eval_name: str | None = None
    """Its configuration, if it is not that of train."""
    eval_split: str | None = None
    """Part of eval, or of train where eval is not given, such as test."""
    eval_fraction: float = 0.0
    """Share of train to hold out for evaluations, chosen by a hash of each sample, so that equal
    samples fall on one side and the choice stays the same when the file is shuffled."""


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Text that the model should not forget, measured at every evaluation."""

    texts: str | None = None
    """A .jsonl file with a field text, or a .txt file; none of it is trained on."""
    max_increase: float | None = None
    """Stop once its bits per byte are more than this above their value before training."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What `bequest finetune` is asked to do."""

    model: str
    """The model to fine-tune: a folder, or a hub id."""
    out: str
    """Folder to write the finished model to."""
    data: DataConfig
    """What is trained on."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """How the samples are weighed, and what else keeps the model near its start."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of TRL's SFTConfig by name, such as learning_rate, max_length or packing."""
    lora: dict[str, Any] | None = None
    """Settings of PEFT's LoraConfig by name, such as r or target_modules; without it all weights
    are trained."""
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Averages to keep beside the run: lawa, ema or swa, each with its settings, such as
    {lawa: {window: 5, spacing: 20}}."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """What is watched for forgetting."""
    weights: str = TRAINED
    """Which weights to publish: trained, or the name of an average."""
    merge: bool = False
    """With lora: publish the whole model with the adapter merged in, not the adapter."""
    revision: str | None = None
    """Branch, tag or commit, if the model is a hub id."""
    dtype: str = "auto"
    """Train in float32, bfloat16 or float16 weights; auto is that of the model's files with lora,
    else float32, because small updates vanish in bfloat16."""
    run_dir: str | None = None
    """Folder of the run with its scores and checkpoints; OUT.run if not given."""
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


def check_config(config: FinetuneConfig) -> None:
    """Refuse what is wrong whatever the model and the data are.

    Raises:
        InputError: a field has a value that it cannot have, or contradicts another.
    """
    if config.dtype not in DTYPES:
        raise InputError(f"dtype is {config.dtype!r}; choose one of {', '.join(DTYPES)}")
    check_weights(config.weights, average_recipes(config.averages))
    if config.merge and config.lora is None:
        raise InputError("merge is set, but there is no lora to merge; leave it out")
    data = config.data
    if not 0 <= data.eval_fraction < 1:
        raise InputError(
            f"data.eval_fraction is {data.eval_fraction}; give a share from 0 up to but not 1"
        )
    if data.eval_fraction and (data.eval or data.eval_name or data.eval_split):
        raise InputError("data.eval_fraction holds samples out of train; leave eval out with it")
    watched = config.retention
    if watched.max_increase is not None:
        if watched.texts is None:
            raise InputError("retention.max_increase is set, but retention.texts is not; name it")
        if not watched.max_increase >= 0:
            raise InputError(
                f"retention.max_increase is {watched.max_increase}; give bits per byte, at least 0"
            )
    if watched.texts is not None and not has_evaluation(data):
        raise InputError(
            "retention is measured at evaluations, and there are none; give data.eval or "
            "data.eval_fraction"
        )


def has_evaluation(data: DataConfig) -> bool:
    """Return whether there is data to evaluate on."""
    return bool(data.eval or data.eval_name or data.eval_split or data.eval_fraction)
