"""Score a data set: every sample's loss under the model before it is fine-tuned, and its weight."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bequest import __version__
from bequest.checkpoints.account import account
from bequest.checkpoints.lineage import command_line
from bequest.errors import InputError, explained
from bequest.losses.device import device
from bequest.results import Section, write_results
from bequest.training.response_losses import response_losses, row_hashes
from bequest.training.score_plan import ScoreConfig, ScorePlan, plan_score, weight_column
from bequest.weighting.schemes import TOKEN_SCHEMES, Scheme, weigh
from bequest.weighting.score_file import ScoreTable, write_scores
from bequest.weighting.summary import summary

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

_SHOWN = 60
"""Response tokens of a sample that the summary shows at most."""


def score(
    model: str | Path,
    data: str | Path | Dataset,
    out: str | Path | None = None,
    *,
    scheme: Scheme = "flow",
    temperature: str | float = "median",
    tokens: bool = False,
    data_name: str | None = None,
    split: str = "train",
    max_length: int | None = 1024,
    sft: Mapping[str, Any] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    tokens_per_batch: int = 4096,
    to_dataset: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> ScoreTable:
    """Compute each sample's loss under a model, and the weight it gets in fine-tuning.

    Scored is what TRL's SFTTrainer would train on: its tokenization, masks and truncation. Where
    `torchrun` or `accelerate launch` started several processes, they share the work.

    Args:
        model: folder or hub id of the causal language model that is to be fine-tuned.
        data: a `.json`, `.jsonl` or `.parquet` file, a folder, a hub id, or a data set.
        out: the score file, `NAME.parquet`; the summary goes to `NAME/results.json`. None writes
            nothing. A run that is broken off leaves its losses beside `out`; the same call takes
            them up.
        scheme: one of `flow`, `flow-token`, `stm`, `uniform`.
        temperature: in nats, or "median" of the losses.
        tokens: keep the loss of every response token.
        data_name: configuration of a data set that has several.
        split: part of the data set.
        max_length: tokens that a sample keeps; None for all.
        sft: values for fields of SFTConfig, of those in `bequest.training.sft_data.SETTINGS`.
        revision: branch, tag or commit of a hub repository.
        dtype: "auto" (that of the model's files), "float32", "bfloat16" or "float16".
        tokens_per_batch: the most tokens, padding included, that run at once.
        to_dataset: a `.parquet` or `.jsonl` file for the data set with its weights: in a column
            `weight`, or under token schemes `token_weights`, a number a response token.
        overwrite: replace `out` and `to_dataset`.
        trust_remote_code: let Python files of the model's folder run.
        progress: show bars.

    Returns:
        A row a sample, in the order of the data set.

    Raises:
        InputError: an argument, the model or the data is at fault; nothing was written.
        StorageError: the disk is full or failed.
    """
    config = ScoreConfig(
        model=str(model),
        data=str(data) if isinstance(data, str | Path) else "a data set in memory",
        out=None if out is None else str(out),
        scheme=scheme,
        temperature=str(temperature),
        tokens=tokens,
        data_name=data_name,
        split=split,
        max_length=0 if max_length is None else max_length,
        sft=tuple(f"{name}={json.dumps(value)}" for name, value in (sft or {}).items()),
        revision=revision,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
        to_dataset=None if to_dataset is None else str(to_dataset),
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    plan = plan_score(config, data=data, progress=progress)
    return carry_out(plan, progress=progress)[0]


def carry_out(plan: ScorePlan, *, progress: bool = False) -> tuple[ScoreTable, list[Section]]:
    """Load the model, compute the losses, weigh them, and write what was asked for.

    Returns:
        The scores, and the summary's sections.

    Raises:
        InputError: the model does not load, or does not fit the data.
        StorageError: the disk is full or failed.
    """
    from bequest.losses.processes import rank_and_size
    from bequest.losses.token_losses import token_losses

    started = time.monotonic()
    config, tokenized = plan.config, plan.tokenized
    out = plan.out
    per_position = token_losses(
        _load(plan, progress),
        cast("Any", tokenized.input_ids),
        cast("Any", tokenized.labels),
        tokens_per_batch=config.tokens_per_batch,
        progress=progress,
        spool=None if out is None else _spool(plan, out),
    )
    scores = _table(plan, per_position)
    told = account(
        config,
        seconds=time.monotonic() - started,
        samples=len(plan.num_tokens),
        tokens=plan.tokens_read,
    )
    sections = [*summary(scores, lambda row: _response(plan, row)), told]
    if rank_and_size()[0] == 0:
        if config.to_dataset is not None:
            _write_weighted(plan, scores)
        if out is not None:
            write_scores(out, scores)
            write_results(out.with_suffix(""), command_line(), sections)
            for spool in out.parent.glob(f".{out.name}.spool-*"):
                shutil.rmtree(spool, ignore_errors=True)
    return scores, sections


def _table(plan: ScorePlan, per_position: list[Any]) -> ScoreTable:
    config, tokenized = plan.config, plan.tokenized
    token_losses, losses = response_losses(per_position, tokenized.labels)
    scheme: Any = config.scheme
    temperature = None if config.temperature == "median" else config.temperature
    weights = weigh(scheme, losses, token_losses, temperature)
    return ScoreTable(
        index=np.arange(len(losses), dtype=np.int64),
        loss=losses,
        num_tokens=np.array(plan.num_tokens, dtype=np.int32),
        row_hash=row_hashes(tokenized.input_ids, tokenized.labels),
        weight=weights.samples,
        token_losses=token_losses if config.tokens or scheme in TOKEN_SCHEMES else None,
        metadata={
            "model": plan.location.name,
            "revision": plan.location.revision,
            "dtype": str(plan.dtype).removeprefix("torch."),
            "tokenizer": _described(plan.tokenizer),
            "data": config.data,
            "data_name": config.data_name,
            "split": config.split,
            "max_length": config.max_length or None,
            "sft": dict(plan.settings),
            "truncated": int(tokenized.truncated.sum()),
            "scheme": scheme,
            "temperature": weights.temperature,
            "bequest_version": __version__,
        },
    )


def _load(plan: ScorePlan, progress: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM

    name = plan.location.name
    with explained(f"model {name} cannot be loaded"), _loading_bar(progress):
        model, told = AutoModelForCausalLM.from_pretrained(
            plan.location.folder,
            dtype=plan.dtype,
            output_loading_info=True,
            trust_remote_code=plan.config.trust_remote_code,
        )
        missing = sorted([*told["missing_keys"], *told["mismatched_keys"]])
        if missing:
            raise InputError(
                f"model {name} lacks {missing[0]} and would run with random weights there; "
                "name the folder of a whole model"
            )
        return cast("nn.Module", model.to(device()))


@contextmanager
def _loading_bar(shown: bool) -> Iterator[None]:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar() if shown else logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar() if before else logging.disable_progress_bar()


def _spool(plan: ScorePlan, out: Path) -> Path:
    """Return where losses are kept until the score file is written, for these very settings."""
    asked = dataclasses.replace(
        plan.config, scheme="", temperature="", tokens=False, to_dataset=None
    )
    text = repr((asked, plan.location.revision))
    return out.parent / f".{out.name}.spool-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _described(tokenizer: Any) -> str:
    own = getattr(tokenizer, "tokenizer", tokenizer)
    return f"{type(own).__name__} of {len(own)} tokens"


def _response(plan: ScorePlan, row: int) -> str:
    """Return the beginning of a sample's response, to know it by."""
    ids, labels = plan.tokenized.input_ids[row], plan.tokenized.labels[row]
    return str(plan.tokenizer.decode(ids[labels != -100][:_SHOWN].tolist()))


def _write_weighted(plan: ScorePlan, scores: ScoreTable) -> None:
    from bequest.training.samples import write_weighted

    values: Sequence[Any] = list(scores.weight)
    if scores.metadata["scheme"] in TOKEN_SCHEMES:
        scheme, temperature = scores.metadata["scheme"], scores.metadata["temperature"]
        values = weigh(scheme, scores.loss, scores.token_losses, temperature).tokens or ()
    path = Path(str(plan.config.to_dataset)).expanduser()
    write_weighted(path, plan.samples, weight_column(plan.config.scheme), values)
