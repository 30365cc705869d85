"""One cell: a model of some depth, inherited or drawn, trained by `bequest pretrain` and measured."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bequest
from bequest.training.held_out_losses import HeldOutLosses
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import plan_pretrain
from bequest.training.pretrain_trainer import PretrainTrainer
from experiments.inheritance.data import (
    CACHE,
    CELLS,
    SMOLLM2,
    held_out_file,
    middle,
    texts,
    training_file,
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the cells of one reference share."""

    depth: int
    """Blocks of the reference."""
    shape: dict[str, Any] | None = None
    """Configuration of the reference, if it is trained here."""
    vocab_size: int | None = None
    """Tokens of the tokenizer that is trained for it."""
    steps: int
    """Of every run; `Cell.times` makes it longer."""
    batch_size: int
    """Sequences of a step."""
    block_length: int = 128
    """Tokens of a sequence."""
    warmup: int
    """Steps of linear warm-up."""
    decay: int
    """Steps of linear decay to a tenth at the end; the rate is constant between the two."""
    spacing: int
    """Steps between the five snapshots that LAWA averages."""
    evaluate_every: int
    """Steps between measurements; divides the step at which the decay begins."""
    passage_bytes: int
    """Length of the passage of each held-out text that is measured."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.block_length


LONGER = 4
"""How many times `Study.steps` the longer trained reference is trained."""


def marked(mark: str, times: int) -> str:
    """How names tell of several times `Study.steps`; of once they say nothing."""
    return "" if times == 1 else f"{mark}{times}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One file of results."""

    study: str
    """Its name in `__main__.STUDIES`."""
    start: str
    """`reference`, `inherited` or `scratch`."""
    depth: int
    """Blocks."""
    rate: float
    """Peak learning rate of AdamW; 0: the model as it is."""
    seed: int
    """Of the order of the text, and of the weights that are drawn."""
    times: int = 1
    """How many times `Study.steps` it is trained."""
    reference_times: int = 1
    """How many times `Study.steps` the reference was trained that it inherits from."""

    @property
    def path(self) -> Path:
        """Where its results are."""
        longer = marked("_x", self.times) + marked("_of_x", self.reference_times)
        name = f"{self.study}_{self.start}_{self.depth}_{self.rate:g}_{self.seed}{longer}.json"
        return CELLS / name


def reference_of(name: str, times: int = 1) -> Path:
    """The folder of a study's reference, trained for so many times `Study.steps`."""
    return SMOLLM2 if name == "smollm2" else CACHE / f"{name}-reference{marked('-x', times)}"


def config_of(cell: Cell, study: Study, folder: Path) -> PretrainConfig:
    """What `bequest pretrain` is asked to do."""
    reference = reference_of(cell.study, cell.reference_times)
    steps = study.steps * cell.times
    start: dict[str, Any]
    if cell.start == "inherited":
        start = {"model": str(folder / "start")}
    elif cell.start == "scratch":
        start = {"model": str(reference), "from_scratch": True}
        start |= {"model_config": {"num_hidden_layers": cell.depth}}
    elif study.shape is None:
        start = {"model": str(reference)}
    else:
        start = {"model_config": study.shape, "train_tokenizer": study.vocab_size}
    training = {
        "learning_rate": cell.rate,
        "max_steps": steps if cell.rate else 1,
        "per_device_train_batch_size": study.batch_size,
        "seed": cell.seed,
        "bf16": True,
        "use_cpu": True,
        "logging_steps": study.evaluate_every,
        "eval_strategy": "steps",
        "eval_steps": study.evaluate_every,
        "eval_on_start": True,
        "save_strategy": "no",
    }
    return PretrainConfig(
        out=str(folder / "model"),
        data=str(training_file()),
        held_out=str(held_out_file(study.passage_bytes)),
        held_out_bytes=10**9,
        block_length=study.block_length,
        schedule="wsd",
        warmup=study.warmup if cell.rate else 0,
        decay=study.decay if cell.rate else 0,
        averages={"lawa": {"window": 5, "spacing": study.spacing}} if cell.rate else {},
        training=training,
        run_dir=str(folder / "run"),
        cache_dir=str(CACHE / "text"),
        overwrite=True,
        **start,
    )


def is_done(cell: Cell, study: Study) -> bool:
    """Whether nothing is left to run; a reference that is trained here must be here, too."""
    made_here = cell.start == "reference" and study.shape is not None
    return cell.path.exists() and not (
        made_here and not reference_of(cell.study, cell.times).is_dir()
    )


def run(cell: Cell, study: Study) -> None:
    """Train, measure along the way and write the cell's results; nothing if they are there."""
    if is_done(cell, study):
        return
    folder = CACHE / "runs" / cell.path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if cell.start == "inherited":
        reference = reference_of(cell.study, cell.reference_times)
        bequest.inherit(str(reference), folder / "start", layers=cell.depth)
    curves: list[dict[str, Any]] = []
    started, processor = time.monotonic(), time.process_time()
    plan = plan_pretrain(config_of(cell, study, folder))
    result = run_pretrain(plan, trainer_class=_recording(curves))
    document = {
        **asdict(cell),
        "settings": asdict(study),
        "parameters": plan.num_parameters,
        "tokens": result.length.tokens_trained,
        "curves": curves,
        "training_loss": [entry["loss"] for entry in result.log if "loss" in entry],
        "tokens_per_second": result.tokens_per_second,
        "seconds": round(time.monotonic() - started),
        "processor_seconds": round(time.process_time() - processor),
        "load": os.getloadavg()[0],
    }
    if cell.start == "reference" and study.shape is not None and cell.seed == 0:
        reference = reference_of(cell.study, cell.times)
        shutil.rmtree(reference, ignore_errors=True)
        (folder / "model").rename(reference)
        _diagnose(reference, diagnosis_of(cell.study, cell.times))
    part = cell.path.with_suffix(".part")
    part.write_text(json.dumps(document))
    part.rename(cell.path)
    shutil.rmtree(folder)


def diagnosis_of(name: str, times: int = 1) -> Path:
    """The file of what `bequest diagnose` says of a study's reference."""
    return CELLS / f"{name}-diagnosis{marked('-x', times)}.json"


def _diagnose(reference: Path, results: Path) -> None:
    pieces = [middle(text, 4000) for text in texts("held_out")]
    pieces += [text[:4000] for text in texts("held_out")]
    folder = reference.with_name(f"{reference.name}-diagnosis")
    bequest.diagnose(reference, pieces, folder, leave_one_out=True, overwrite=True)
    shutil.copyfile(folder / "results.json", results)


def _recording(curves: list[dict[str, Any]]) -> type[PretrainTrainer]:
    """A trainer that appends each measurement to a list, document by document."""

    class Recording(PretrainTrainer):
        def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
            metrics = super().evaluate(*arguments, **named)
            averaged = ["lawa"] if "eval_lawa_loss" in metrics else []
            names = ["raw", *averaged]
            latest: list[HeldOutLosses] = list(self.compute_metrics.measured)[-len(names) :]
            step = self.state.global_step
            taken = {entry["step"] for entry in curves}
            if step not in taken:  # The run measures its end once more.
                curves.append(
                    {"step": step, **dict(zip(names, map(_as_json, latest), strict=True))}
                )
            return metrics

    return Recording


def _as_json(losses: HeldOutLosses) -> dict[str, Any]:
    return {
        "nats": [round(float(nats), 4) for nats in losses.nats_per_document],
        "tokens": losses.tokens_per_document.tolist(),
        "bytes": losses.bytes_per_document.tolist(),
    }
