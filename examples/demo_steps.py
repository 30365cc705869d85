"""The commands of `make demo`, in their order."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from demo_data import write_questions, write_texts

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "examples" / "demo"
MODEL = ROOT / ".cache" / "assets" / "SmolLM2-135M-Instruct"
BROWN = ROOT / ".cache" / "assets" / "brown"
TRAIN_STEPS, SPACING = 30, 2
"""Of pretrain.yaml: its steps, and those between the checkpoints that are averaged."""
QUESTIONS = 48
HELD_OUT_QUESTIONS = 18
TEXTS = 40
BYTES_PER_TEXT = 512
SEQUENCES = 8
SEQUENCE_LENGTH = 64
REPORTED = (
    *("diagnosis", "cut", "trained", "averaged", "depth"),
    *("standard", "flow", "forgetting"),
)
"""Folders whose results the report shows."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command."""

    title: str
    """What it is for."""
    arguments: tuple[str, ...]
    """What stands after `bequest`."""
    done: Path
    """What exists when, and only when, the command has finished."""
    needless: Path | None = None
    """A run's folder that nobody needs once the command has finished."""


def short(path: str | Path) -> str:
    """The path from where the user stands, if it is below."""
    here = Path.cwd()
    return os.path.relpath(path, here) if Path(path).is_relative_to(here) else str(path)


def scaled(number: int, scale: float, least: int = 2) -> int:
    """A number of steps or samples at the scale of the demo."""
    return max(least, round(number * scale))


def prepare(out: Path, scale: float) -> None:
    """Write the texts and questions, unless an earlier run did."""
    texts, questions = out / "data" / "brown.jsonl", out / "data" / "train.jsonl"
    if not texts.exists():
        count = min(TEXTS, scaled(TEXTS, scale, 4))
        size = scaled(BYTES_PER_TEXT, max(1, scale))
        write_texts(BROWN / "held_out.jsonl", texts, count=count, size=size)
    # The last one to be written stands for all.
    if not questions.exists():
        train, held_out = scaled(QUESTIONS, scale, 8), scaled(HELD_OUT_QUESTIONS, scale, 4)
        write_questions(questions.parent, train=train, held_out=held_out)


def steps(out: Path, layers: int, scale: float) -> list[Step]:
    """Lay out the commands; every path is as the user would write it."""
    return [*_depth(out, layers, scale), *_tuning(out), _report(out)]


def _depth(out: Path, layers: int, scale: float) -> list[Step]:
    model, brown = short(MODEL), short(out / "data" / "brown.jsonl")
    cut, trained, averaged = (short(out / name) for name in ("cut", "trained", "averaged"))
    # As many checkpoints as a very short run has.
    window = str(min(5, scaled(TRAIN_STEPS, scale) // scaled(SPACING, scale, 1)))
    # fmt: off
    spacing = str(scaled(SPACING, scale, 1))
    longer = () if scale == 1 else (
        "--training.max_steps", str(scaled(TRAIN_STEPS, scale)),
        "--training.save_steps", spacing, "--averages.lawa.spacing", spacing,
    )
    return [
        _step(
            out, "diagnosis", "Diagnose: which blocks hardly look around any more?",
            "diagnose", model, "--texts", brown, "--sequences", str(scaled(SEQUENCES, scale)),
            "--length", str(SEQUENCE_LENGTH), "--out", short(out / "diagnosis"),
        ),
        _step(
            out, "cut", f"Inherit the first {layers} blocks, the embeddings and the head",
            "inherit", model, cut, "--layers", str(layers),
        ),
        _step(
            out, "trained", "Train the cut model on the Brown corpus, with LAWA beside the run",
            "pretrain", "--config", short(CONFIGS / "pretrain.yaml"), "--model", cut,
            "--data", short(BROWN / "train.jsonl"), "--held-out", brown, *longer, "--out", trained,
        ),
        _step(
            out, "averaged", "Average the last checkpoints of that run afterwards",
            "average", f"{trained}.run", averaged, "--window", window, "--spacing", spacing,
            needless="trained.run",
        ),
        _step(
            out, "depth", "Evaluate: the whole model before, the cut one and its successors after",
            "evaluate", f"whole={model}", f"cut={cut}", f"trained={trained}",
            f"averaged={averaged}", "--texts", brown, "--out", short(out / "depth"),
        ),
    ]
    # fmt: on


def _tuning(out: Path) -> list[Step]:
    model, data = short(MODEL), out / "data"
    standard, flow = short(out / "standard"), short(out / "flow")
    # fmt: off
    tune = (
        "--model", model, "--data.train", short(data / "train.jsonl"),
        "--data.eval", short(data / "held_out.jsonl"),
    )
    return [
        _step(
            out, "standard", "Fine-tune the whole model on questions and answers, the standard way",
            "finetune", "--config", short(CONFIGS / "standard.yaml"), *tune, "--out", standard,
            needless="standard.run",
        ),
        _step(
            out, "flow", "The same with FLOW: samples that the model finds easy weigh more",
            "finetune", "--config", short(CONFIGS / "flow.yaml"), *tune, "--out", flow,
            needless="flow.run",
        ),
        _step(
            out, "forgetting", "Evaluate: what was gained on the questions, what forgotten of Brown?",
            "evaluate", f"before={model}", f"standard={standard}", f"flow={flow}",
            "--texts", short(data / "questions.jsonl"), short(data / "brown.jsonl"),
            "--target", "questions.jsonl", "--between", "--out", short(out / "forgetting"),
        ),
    ]
    # fmt: on


def _step(out: Path, name: str, title: str, *arguments: str, needless: str | None = None) -> Step:
    # The commands publish their folders whole, so that a results.json there means all is done.
    return Step(
        title=title,
        arguments=arguments,
        done=out / name / "results.json",
        needless=None if needless is None else out / needless,
    )


def _report(out: Path) -> Step:
    target = out / "report.html"
    folders = [short(out / name) for name in REPORTED]
    return Step(
        title="Report: everything on one page",
        arguments=("report", *folders, "--out", short(target), "--overwrite"),
        done=target,
    )


def settings(plan: list[Step]) -> str:
    """All that the results depend on, to tell whether a folder holds this demo or another."""
    configs = {path.name: path.read_text(encoding="utf-8") for path in sorted(CONFIGS.iterdir())}
    amounts = [QUESTIONS, HELD_OUT_QUESTIONS, TEXTS, BYTES_PER_TEXT]
    return json.dumps([[step.arguments for step in plan], configs, amounts], sort_keys=True)
