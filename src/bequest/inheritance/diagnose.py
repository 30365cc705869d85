"""See attention collapse in a model: which blocks are lazy, and how deep to inherit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.checkpoints.account import account
from bequest.checkpoints.lineage import command_line
from bequest.errors import InputError
from bequest.inheritance.diagnose_plan import DiagnoseConfig, DiagnosePlan, plan_diagnose, problem
from bequest.results import write_results

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bequest.inheritance.diagnose_anatomy import Anatomy
    from bequest.inheritance.diagnose_report import Diagnosis

_LOOKED_AT = 2
"""Sequences from which the blocks' windows are read."""


def diagnose(
    model: str | Path,
    texts: Sequence[str],
    out: str | Path | None = None,
    *,
    sequences: int = 100,
    length: int = 100,
    threshold: float = 0.90,
    leave_one_out: bool = False,
    leave_one_out_sequences: int = 20,
    sequences_per_batch: int = 10,
    dtype: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> Diagnosis:
    """Measure attention rank and mass of every head, and what every block does.

    Args:
        model: folder or hub id of a causal language model; blocks without softmax attention
            (state-space, linear, convolution) are skipped and named.
        texts: texts to read; each gives sequences of `length` tokens from its beginning, short
            ones are joined.
        out: folder for `results.json`; None writes nothing. A run that is broken off leaves what
            it measured there; the same call takes it up.
        sequences: how many sequences ranks, masses and influence are measured of.
        length: tokens of a sequence, those that the tokenizer puts before a text included.
        threshold: share of the squared Frobenius norm that rank and mass must hold.
        leave_one_out: also measure the loss without each block.
        leave_one_out_sequences: of how many of the sequences.
        sequences_per_batch: how many run through the model at once.
        dtype: "auto" (that of the model's files), "float32", "bfloat16" or "float16".
        revision: branch, tag or commit of a hub repository.
        overwrite: replace a `results.json` in `out`.
        trust_remote_code: let Python files of the model's folder run.
        progress: show bars.

    Raises:
        InputError: an argument, the model or the texts are at fault; nothing was written.
        UnsupportedModelError: the model has no softmax attention, or does not show it.
        StorageError: the disk is full or failed.
    """
    config = DiagnoseConfig(
        model=str(model),
        texts="texts in memory",
        out=None if out is None else str(out),
        sequences=sequences,
        length=length,
        threshold=threshold,
        leave_one_out=leave_one_out,
        leave_one_out_sequences=leave_one_out_sequences,
        sequences_per_batch=sequences_per_batch,
        dtype=dtype,
        revision=revision,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    return carry_out(plan_diagnose(config, texts), progress=progress)


def carry_out(plan: DiagnosePlan, *, progress: bool = False) -> Diagnosis:
    """Load the model, measure, and write `results.json` if that was asked for.

    Raises:
        InputError: the model does not load.
        UnsupportedModelError: it has no softmax attention, or does not show it.
        StorageError: the disk is full or failed.
    """
    import torch

    from bequest.inheritance.diagnose_anatomy import find_anatomy
    from bequest.inheritance.diagnose_report import Diagnosis
    from bequest.inheritance.diagnose_watch import attention_widths

    started = time.monotonic()
    config = plan.config
    model = _load(plan, progress)
    device = next(model.parameters()).device
    input_ids = torch.tensor(plan.input_ids, device=device)
    anatomy = find_anatomy(model, input_ids)
    widths = attention_widths(model, anatomy, input_ids[:_LOOKED_AT])
    with _Pass(plan, model, anatomy, widths, progress) as work:
        measures = work.measures(input_ids)
        losses = None
        if config.leave_one_out:
            losses = work.losses(input_ids[: config.leave_one_out_sequences])
    diagnosis = Diagnosis(
        model=plan.location.name,
        kinds=anatomy.kinds,
        widths=widths,
        length=config.length,
        threshold=config.threshold,
        measures=measures,
        losses=losses,
    )
    if config.out is not None:
        out = Path(config.out).expanduser()
        told = account(
            config,
            seconds=time.monotonic() - started,
            sequences=len(plan.input_ids),
            tokens=int(input_ids.numel()),
        )
        write_results(out, command_line(), [*diagnosis.sections(), told])
        for spool in out.glob(".spool-*"):
            shutil.rmtree(spool, ignore_errors=True)
    return diagnosis


@dataclass(kw_only=True)
class _Batch:
    """Some sequences and what is asked of them."""

    number: int
    start: int
    end: int


class _Pass:
    """Runs batches of sequences, and keeps what they gave on disk until the results are written."""

    def __init__(
        self,
        plan: DiagnosePlan,
        model: nn.Module,
        anatomy: Anatomy,
        widths: Sequence[int | None],
        progress: bool,
    ) -> None:
        from bequest.losses.spool import Spool, finished_batches, identity

        self.plan, self.model, self.anatomy, self.widths = plan, model, anatomy, widths
        self.progress = progress
        self.found: dict[int, NDArray[np.float32]] = {}
        self.spool: Spool | None = None
        if plan.config.out is not None:
            asked = (plan.config.threshold, plan.config.sequences_per_batch)
            header = {"identity": identity(model, asked, plan.input_ids)}
            folder = Path(plan.config.out).expanduser() / f".spool-{header['identity'][:8]}"
            self.spool = Spool(folder, 0, header)
            self.found = finished_batches(folder, header) if folder.exists() else {}

    def __enter__(self) -> _Pass:
        if self.spool is not None:
            self.spool.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        if self.spool is not None:
            self.spool.__exit__(*ended)

    def measures(self, input_ids: Tensor) -> Any:
        """Return ranks, masses and influence of all sequences."""
        from bequest.inheritance.diagnose_measure import joined, measure, unpacked

        heads = [0 if found is None else found.num_heads for found in self.anatomy.attention]
        parts = []
        for batch in self._batches(len(input_ids), "attention"):
            if batch.number not in self.found:
                made = measure(
                    self.model,
                    self.anatomy,
                    self.widths,
                    input_ids[batch.start : batch.end],
                    self.plan.config.threshold,
                )
                self._keep(batch.number, made.packed())
            parts.append(unpacked(self.found[batch.number], heads, batch.end - batch.start))
        return joined(parts)

    def losses(self, input_ids: Tensor) -> NDArray[np.float32]:
        """Return the losses with all blocks and without each."""
        import torch

        from bequest.inheritance.diagnose_skip import check_leave_one_out, leave_one_out
        from bequest.losses.head import find_head

        with torch.no_grad():
            head = find_head(self.model, input_ids[:1])
        check_leave_one_out(self.model, self.anatomy, head, input_ids[:1])
        parts = []
        for batch in self._batches(len(input_ids), "leave one out"):
            # Behind the numbers of the first pass, and another one where the last batch is longer:
            # of how many sequences the losses are may change when the run goes on.
            batch.number += batch.end << 32
            if batch.number not in self.found:
                some = input_ids[batch.start : batch.end]
                made = leave_one_out(self.model, self.anatomy, head, some)
                self._keep(batch.number, made.reshape(-1))
            parts.append(self.found[batch.number].reshape(1 + len(self.widths), -1))
        return np.concatenate(parts, axis=1)

    def _keep(self, number: int, values: NDArray[np.float32]) -> None:
        self.found[number] = values
        if self.spool is not None:
            self.spool.append(number, values)

    def _batches(self, count: int, what: str) -> Any:
        from tqdm import tqdm

        size = self.plan.config.sequences_per_batch
        batches = [
            _Batch(number=start, start=start, end=min(start + size, count))
            for start in range(0, count, size)
        ]
        return tqdm(batches, desc=what, unit="batch", disable=not self.progress)


def _load(plan: DiagnosePlan, progress: bool) -> nn.Module:
    """Load the model with eager attention, the one implementation that returns its weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar() if progress else logging.disable_progress_bar()
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            plan.location.folder,
            dtype=plan.dtype,
            attn_implementation="eager",
            output_loading_info=True,
            trust_remote_code=plan.config.trust_remote_code,
        )
    except MemoryError:
        raise
    except Exception as error:  # Which kinds it raises depends on what is wrong.
        raise problem(f"model {plan.location.name} cannot be loaded", error) from error
    finally:
        logging.enable_progress_bar() if before else logging.disable_progress_bar()
    missing = sorted([*told["missing_keys"], *map(str, told["mismatched_keys"])])
    if missing:
        raise InputError(
            f"model {plan.location.name} lacks {missing[0]} and would run with random weights "
            "there; name the folder of a whole model"
        )
    found: nn.Module = model.eval()
    return found.to("cuda") if torch.cuda.is_available() else found
