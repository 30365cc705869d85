"""What is to be scored: everything about it that can be refused before the model is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.checkpoints.locate import Location, locate
from bequest.errors import InputError, explained
from bequest.losses.device import device
from bequest.weighting.schemes import TOKEN_SCHEMES, check_scheme

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from bequest.training.sft_data import TokenizedSamples

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_DATA_FILES = (".parquet", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `bequest score` is asked to do."""

    model: str
    """The model that is to be fine-tuned: a folder, or a hub id."""
    data: str
    """The data set: a .json, .jsonl or .parquet file, a folder, or a hub id."""
    out: str | None = None
    """The score file to write, a name that ends in .parquet."""
    scheme: str = "flow"
    """How losses become weights: flow, flow-token, stm or uniform."""
    temperature: str = "median"
    """Temperature of the flow schemes in nats; "median" takes the median loss."""
    tokens: bool = False
    """Keep the loss of every response token; token schemes always do."""
    data_name: str | None = None
    """Which configuration of a data set that has several, such as main of openai/gsm8k."""
    split: str = "train"
    """Part of the data set, such as train or train[:1000]."""
    max_length: int = 1024
    """Tokens that a sample keeps, as in SFTConfig; 0 keeps all."""
    sft: tuple[str, ...] = ()
    """Settings of SFTConfig that decide what is trained on, as NAME=VALUE, such as
    assistant_only_loss=true."""
    revision: str | None = None
    """Branch, tag or commit, if the model is a hub id."""
    dtype: str = "auto"
    """Run the model in float32, bfloat16 or float16; auto is that of its files."""
    tokens_per_batch: int = 4096
    """The most tokens, padding included, that run through the model at once."""
    to_dataset: str | None = None
    """Also write the data set with a column of weights, to this .parquet or .jsonl file."""
    overwrite: bool = False
    """Replace files that stand at `out` and `to_dataset`."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorePlan:
    """A data set ready to be scored: all that could be refused without the model has been."""

    config: ScoreConfig
    """What was asked."""
    location: Location
    """Where the model is."""
    tokenizer: Any
    """Its tokenizer, or processor."""
    samples: Dataset
    """The data set as it was read."""
    tokenized: TokenizedSamples
    """What of it is trained on."""
    settings: Mapping[str, Any]
    """Settings of SFTConfig, parsed."""
    num_parameters: int
    """Of the model."""
    dtype: torch.dtype
    """In which it runs."""
    num_tokens: tuple[int, ...]
    """Response tokens of each sample."""
    tokens_read: int
    """Tokens that run through the model: each sample up to its last response token."""

    @property
    def out(self) -> Path | None:
        """The score file."""
        return None if self.config.out is None else Path(self.config.out).expanduser()

    def cost(self) -> tuple[float, float]:
        """Return about how many seconds and bytes scoring takes, by a quick test of the device."""
        import torch

        kind, size = self.dtype, 1024
        matrix = torch.ones(size, size, device=device(), dtype=kind)
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            float((matrix @ matrix)[0, 0])
            rates.append(2 * size**3 / (time.perf_counter() - started))
        return (
            2 * self.num_parameters * self.tokens_read / max(rates),
            float(self.num_parameters * torch.finfo(kind).bits // 8),
        )


def plan_score(
    config: ScoreConfig, *, data: str | Path | Dataset | None = None, progress: bool = False
) -> ScorePlan:
    """Read and tokenize the data, and refuse what can be refused before the model is loaded.

    Args:
        config: what is asked.
        data: a data set in memory, instead of `config.data`.
        progress: show TRL's bars.

    Raises:
        InputError: an argument, the model's folder or the data is at fault.
    """
    _check(config)
    settings = _parsed(config.sft)
    location = locate(config.model, revision=config.revision, field="model")
    from bequest.losses.processes import join_processes

    try:
        from bequest.training.samples import read_samples
        from bequest.training.sft_data import tokenize_samples
    except ImportError as error:
        raise InputError(
            f"score lets TRL tokenize, but {error.name} is not installed; "
            "run `pip install 'bequest[train]'`"
        ) from error
    join_processes()
    with explained(f"model {location.name} cannot be read"):
        skeleton, tokenizer = _read_model(config, location)
    samples = read_samples(
        config.data if data is None else data, split=config.split, name=config.data_name
    )
    column = weight_column(config.scheme)
    if config.to_dataset is not None and column in samples.column_names:
        raise InputError(
            f"data has a column {column!r} already, so to_dataset cannot add it; rename that column"
        )
    tokenized = tokenize_samples(
        samples,
        tokenizer,
        max_length=config.max_length or None,
        settings=settings,
        progress=progress,
    )
    # The first token is predicted from nothing, so a label there does not count.
    places = [np.flatnonzero(labels[1:] != -100) + 1 for labels in tokenized.labels]
    text_config = skeleton.config.get_text_config()
    _check_responses(config, places, getattr(text_config, "max_position_embeddings", None))
    return ScorePlan(
        config=config,
        location=location,
        tokenizer=tokenizer,
        samples=samples,
        tokenized=tokenized,
        settings=settings,
        num_parameters=skeleton.num_parameters(),
        dtype=skeleton.dtype,
        num_tokens=tuple(map(len, places)),
        tokens_read=sum(int(place[-1]) for place in places if len(place)),
    )


def _read_model(config: ScoreConfig, location: Location) -> tuple[Any, Any]:
    """Return the model without its weights, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

    trust = {"trust_remote_code": config.trust_remote_code}
    model_config = AutoConfig.from_pretrained(location.folder, **trust)
    asked = None if config.dtype == "auto" else getattr(torch, config.dtype)
    kind = asked or getattr(model_config, "dtype", None) or torch.float32
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model_config, dtype=kind, **trust)
    # The processor is what SFTTrainer takes; of a text model it is the tokenizer.
    return skeleton, AutoProcessor.from_pretrained(location.folder, **trust)


def weight_column(scheme: str) -> str:
    """Return the name of the column that `to_dataset` adds."""
    return "token_weights" if scheme in TOKEN_SCHEMES else "weight"


def _check(config: ScoreConfig) -> None:
    check_scheme(config.scheme, config.temperature)
    if config.dtype not in _DTYPES:
        raise InputError(f"dtype is {config.dtype!r}; choose one of {', '.join(_DTYPES)}")
    if config.tokens_per_batch < 1:
        raise InputError(f"tokens_per_batch is {config.tokens_per_batch}; it must be at least 1")
    if config.max_length < 0:
        raise InputError(
            f"max_length is {config.max_length}; give a number of tokens, or 0 for all"
        )
    _check_file("out", config.out, (".parquet",), config.overwrite)
    _check_file("to_dataset", config.to_dataset, _DATA_FILES, config.overwrite)
    if config.out is not None and config.out == config.to_dataset:
        raise InputError(f"out and to_dataset are both {config.out}; name two files")


def _check_file(field: str, name: str | None, endings: tuple[str, ...], overwrite: bool) -> None:
    if name is None:
        return
    file = Path(name).expanduser()
    if file.suffix not in endings:
        raise InputError(f"{field} is {name}; give a name that ends in {' or '.join(endings)}")
    if file.is_dir():
        raise InputError(f"{field} {name} is a folder; name a file")
    if file.exists() and not overwrite:
        raise InputError(f"{field} {name} exists; name another file or pass --overwrite")
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"{field} {name} cannot be written: {nearest} takes no files; name another"
        )


def _parsed(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE settings, the values as YAML."""
    import yaml

    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"sft holds {pair!r}; give NAME=VALUE")
        settings[name.strip()] = yaml.safe_load(value)
    return settings


def _check_responses(config: ScoreConfig, places: list[Any], positions: int | None) -> None:
    if not any(map(len, places)):
        hint = "raise max_length" if config.max_length else "check its masks"
        raise InputError(f"data has {len(places):,} samples and not one response token; {hint}")
    longest = max(int(place[-1]) for place in places if len(place))
    if positions is not None and longest > positions:
        raise InputError(
            f"data has a sample of {longest + 1:,} tokens, but the model has {positions:,} "
            f"positions; set max_length to {positions} or less"
        )
