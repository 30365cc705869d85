"""What TRL would train on: its tokenization, masks and truncation of a data set.

TRL itself does it, in an `SFTTrainer` whose model is a stand-in of a few hundred parameters: first
without truncation, so that no sample disappears, then with it.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer, is_conversational

from bequest.errors import InputError
from bequest.training.response_losses import IGNORED
from bequest.training.samples import progress_bars

SETTINGS = (
    "assistant_only_loss",
    "chat_template_path",
    "completion_only_loss",
    "dataset_num_proc",
    "dataset_text_field",
    "eos_token",
    "truncation_mode",
)
"""Fields of SFTConfig that, beside `max_length`, decide what is trained on."""

_ROW = "_bequest_row"

Ids = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedSamples:
    """A data set as TRL trains on it, before packing; every sample has its row."""

    input_ids: list[Ids]
    """Token ids of each sample, truncated."""
    labels: list[Ids]
    """Its labels, unshifted; -100 where nothing is learned. A sample that TRL leaves out, because
    truncation took its whole response, has only such."""
    truncated: NDArray[np.bool_]
    """Whether truncation took tokens of it, or all."""


def tokenize_samples(
    samples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> TokenizedSamples:
    """Tokenize, mask and truncate a data set as `SFTTrainer` does.

    Args:
        samples: N samples in a form that SFTTrainer takes.
        tokenizer: of the model to be trained (or its processor); TRL may set its pad token.
        max_length: tokens that a sample keeps; None for all.
        settings: values for the fields in `SETTINGS`.
        progress: show TRL's bars.

    Raises:
        InputError: TRL cannot train on such samples, or not with these settings.
    """
    asked = dict(settings or {})
    unknown = sorted(set(asked) - set(SETTINGS))
    if unknown:
        raise InputError(
            f"{unknown[0]} is no setting that decides what is trained on; those are "
            f"{', '.join(SETTINGS)}"
        )
    _check_form(samples, tokenizer, asked)
    with progress_bars(progress):
        marked = samples.add_column(_ROW, range(len(samples)))
        whole = _prepared(marked, tokenizer, max_length=None, **asked)
        input_ids, labels = _rows(whole, "input_ids"), _rows(whole, "labels")
        lengths = [len(ids) for ids in input_ids]
        if max_length is not None:
            # Its labels exist by now, so that all TRL still does is truncate and leave out.
            mode = {key: value for key, value in asked.items() if key == "truncation_mode"}
            kept = _prepared(whole, tokenizer, max_length=max_length, **mode)
            labels = [np.full_like(own, IGNORED) for own in labels]
            for row, ids, own in zip(
                kept[_ROW], _rows(kept, "input_ids"), _rows(kept, "labels"), strict=True
            ):
                input_ids[row], labels[row] = ids, own
    limit = max(lengths) if max_length is None else max_length
    truncated = np.array(lengths) > limit
    return TokenizedSamples(input_ids=input_ids, labels=labels, truncated=truncated)


def _check_form(samples: Dataset, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Refuse in one sentence what TRL would stumble over later."""
    columns = set(samples.column_names)
    text = settings.get("dataset_text_field", "text")
    forms = [{"input_ids"}, {"messages"}, {"conversations"}, {"prompt", "completion"}, {text}]
    if not any(form <= columns for form in forms):
        raise InputError(
            f"data has the columns {', '.join(samples.column_names)}, but a sample needs `{text}`, "
            "`messages`, or `prompt` and `completion`; rename them, or set dataset_text_field"
        )
    if "input_ids" in columns:
        return
    first = samples[0]
    empty = [name for name in ("messages", "conversations", "prompt") if first.get(name) == []]
    if empty:
        raise InputError(f"data has no message in `{empty[0]}` of its first sample; leave it out")
    conversational = "conversations" in columns or is_conversational(first)
    has_template = tokenizer.chat_template is not None or "chat_template_path" in settings
    if conversational and not has_template:
        raise InputError(
            "data is conversational, but the model's tokenizer has no chat template; set "
            "chat_template_path to a template, or take an instruction-tuned model"
        )


def _prepared(samples: Dataset, tokenizer: Any, **settings: Any) -> Dataset:
    """Let an SFTTrainer prepare the samples."""
    with tempfile.TemporaryDirectory() as folder, _process_left_alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tiny = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
        stand_in = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(getattr(tokenizer, "tokenizer", tokenizer)),
                num_hidden_layers=1,
                **tiny,
            )
        )
        try:
            config = SFTConfig(
                folder, use_cpu=True, bf16=False, report_to="none", packing=False, **settings
            )
            trainer = SFTTrainer(
                stand_in, config, train_dataset=samples, processing_class=tokenizer
            )
        except (MemoryError, OSError):
            raise
        except Exception as error:  # Templates, tokenizers and TRL raise kinds of their own.
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise InputError(
                f"data cannot be prepared as TRL would: {type(error).__name__}: {reason}"
            ) from error
        return trainer.train_dataset


def _rows(samples: Dataset, column: str) -> list[Ids]:
    """Return a column of lists as arrays, without a Python object for each number."""
    rows: list[Ids] = []
    for table in samples.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        lists = table[column].combine_chunks()
        ends = np.cumsum(pyarrow.compute.list_value_length(lists).to_numpy())
        values = lists.flatten().to_numpy().astype(np.int32)
        rows += np.split(values, ends[:-1])
    return rows


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """Undo what a trainer does to its process: it seeds every generator and chooses a device."""
    python, numpy = random.getstate(), np.random.get_state()
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for state, old in zip(shared, before, strict=True):
                state.clear()
                state.update(old)
