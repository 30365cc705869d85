"""One cell: SmolLM2-135M fine-tuned by one method at one rate with one seed, then measured."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.utils import logging
from trl import SFTConfig

import bequest
from bequest.losses.token_losses import IGNORED, token_losses
from bequest.training.method import MethodConfig
from experiments.flow.data import HELD_OUT_SEED, ROOT, Item, as_row, probes, target

MODEL = ROOT / ".cache" / "assets" / "SmolLM2-135M-Instruct"
CACHE = ROOT / ".cache" / "experiments" / "flow"
LORA = LoraConfig(r=64, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
"""Rank and alpha are the paper's."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all cells share."""

    steps: int = 24
    """Steps, one epoch over `8 * steps` samples; cosine decay after a tenth of warm-up."""
    batch_size: int = 8
    """Samples of a step."""
    held_out: int = 48
    """Samples of the target on which it is measured."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table."""

    config: MethodConfig
    """What FlowTrainer is told."""
    lora: bool = False
    """Whether adapters are trained instead of the weights."""
    only: str | None = None
    """Weigh samples of this task 1 and all others 0."""
    blend: float | None = None
    """Also measure WiSE-FT of the same run with this share of the trained weights."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One file of results."""

    method: str
    """Its name in `__main__.METHODS`."""
    rate: float
    """Peak learning rate of AdamW; 0: the model as it was before training."""
    seed: int
    """Of the samples drawn from the generators, and of their order."""

    @property
    def path(self) -> Path:
        """Where its results are."""
        return CACHE / f"{self.method.replace(' ', '-')}_{self.rate:g}_{self.seed}.json"


def run(cell: Cell, method: Method, settings: Settings) -> None:
    """Train, measure and write the cell's results; nothing if they are there."""
    if cell.path.exists():
        return
    started = time.monotonic()
    set_seed(cell.seed)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    if cell.rate == 0:
        write(cell, model, {"settings": asdict(settings)}, settings)
        return
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    folder = CACHE / "runs" / cell.path.stem
    trainer = bequest.FlowTrainer(
        model,
        _arguments(cell, folder, settings),
        train_dataset=training_set(cell.seed, settings),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        peft_config=LORA if method.lora else None,
        scores=_scores_for(method, cell, settings),
        method=method.config,
    )
    trainer.train()
    seconds = round(time.monotonic() - started)
    log = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {"settings": asdict(settings), "training_loss": log, "seconds": seconds}
    trained = trainer.model.merge_and_unload() if method.lora else trainer.model
    facts["moved"] = _moved(trained, start)
    write(cell, trained, facts, settings)
    if method.blend is not None:
        with torch.no_grad():
            for name, value in trained.named_parameters():
                value.lerp_(start[name], 1 - method.blend)
        both = f"{cell.method} + WiSE-FT"
        facts["moved"] *= method.blend
        write(Cell(method=both, rate=cell.rate, seed=cell.seed), trained, facts, settings)
    shutil.rmtree(folder, ignore_errors=True)


def _moved(model: Any, start: dict[str, torch.Tensor]) -> float:
    """How far the weights are from where they were, relative to their size there."""
    apart = sum((v - start[name]).double().square().sum() for name, v in model.named_parameters())
    return float((apart / sum(v.double().square().sum() for v in start.values())).sqrt())


def training_set(seed: int, settings: Settings) -> Dataset:
    """The samples of a seed, each seen once."""
    return Dataset.from_list([as_row(item) for item in _in_order(seed, settings)])


def _in_order(seed: int, settings: Settings) -> list[Item]:
    items = target(settings.steps * settings.batch_size, seed)
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[row] for row in order]


def _scores_for(method: Method, cell: Cell, settings: Settings) -> Any:
    if method.only is not None:
        return [float(item.group == method.only) for item in _in_order(cell.seed, settings)]
    return None if method.config.scheme == "uniform" else scores(cell.seed, settings)


def scores(seed: int, settings: Settings) -> Any:
    """The starting model's losses on a seed's samples, from one pass that all cells share."""
    from bequest.weighting.score_file import read_scores

    file = CACHE / f"scores-{seed}-{settings.steps}.parquet"
    if not file.exists():
        bequest.score(str(MODEL), training_set(seed, settings), file, tokens=True, dtype="bfloat16")
    return read_scores(file)


def write(cell: Cell, model: Any, facts: dict[str, Any], settings: Settings) -> None:
    """Measure a model on every item and write what it lost on each, in nats."""
    document = {**asdict(cell), **facts, "items": measured(model, settings)}
    part = cell.path.with_suffix(".part")
    part.write_text(json.dumps(document))
    part.rename(cell.path)


def measured(model: Any, settings: Settings) -> list[dict[str, Any]]:
    """The loss of each item: its group, nats, and the tokens and bytes that they are for."""
    items = [*target(settings.held_out, HELD_OUT_SEED), *probes()]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    input_ids, labels = zip(*(_tokens(item, tokenizer) for item in items), strict=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = token_losses(model, input_ids, labels)
    return [
        {
            "group": item.group,
            "nats": float(np.nansum(own, dtype=np.float64)),
            "tokens": int(np.isfinite(own).sum()),
            "bytes": len(item.answer.encode()),
        }
        for item, own in zip(items, losses, strict=True)
    ]


def _tokens(item: Item, tokenizer: Any) -> tuple[Sequence[int], Sequence[int]]:
    """Token ids and labels, as training would make them; running text follows the first token."""
    if item.is_chat:
        row = as_row(item)
        options = {"tokenize": True, "return_dict": False}
        before = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], **options)
        assert whole[: len(before)] == before
    else:
        plain = {"add_special_tokens": False}
        before = [tokenizer.bos_token_id, *tokenizer(item.prompt, **plain)["input_ids"]]
        whole = [*before, *tokenizer(item.answer, **plain)["input_ids"]]
    return whole, [IGNORED] * len(before) + whole[len(before) :]


def _arguments(cell: Cell, folder: Path, settings: Settings) -> SFTConfig:
    logging.set_verbosity_error()
    return SFTConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size // 2,
        gradient_accumulation_steps=2,
        learning_rate=cell.rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.steps // 10,
        weight_decay=0.0,
        # Clipping would see that FLOW's loss is smaller, which Adam does not.
        max_grad_norm=0.0,
        seed=cell.seed,
        shuffle_dataset=False,
        max_length=512,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
