"""Cut a real model in half and show what that costs: `make demo`.

Runs the commands that you would type, and measures what comes out of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.errors import BequestError, InputError
from bequest.results import Section, write_results

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / ".cache" / "assets"
MODEL = ASSETS / "SmolLM2-135M-Instruct"
TEXTS = ASSETS / "brown" / "held_out.jsonl"
BYTES_PER_TEXT = 1024
PROMPT = "The largest planet of the solar system is"
NEW_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the demo says of one model."""

    layers: int
    """Transformer blocks."""
    parameters: int
    """Parameters, tied ones counted once."""
    weight_bytes: int
    """Size of the weight files on disk."""
    bits_per_byte: float
    """On the held-out texts."""
    standard_error: float
    """Of `bits_per_byte`, the texts being a sample."""
    guess: float
    """Bits per byte of a model that finds every token of the vocabulary equally likely."""
    generated: str
    """How the model goes on after the prompt, greedily; one line."""


def run_command(*arguments: str | Path) -> float:
    """Print a bequest command as it can be copied, run it, and return its seconds."""
    command = [str(Path(sys.executable).with_name("bequest")), *map(str, arguments)]
    print(f"   $ {shlex.join(short(part) for part in command)}\n", flush=True)
    started = time.monotonic()
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if ended.returncode != 0:
        raise SystemExit(ended.returncode)
    print(flush=True)
    return time.monotonic() - started


def short(path: str | Path) -> str:
    """The path from where the user stands, if it is below."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def held_out_texts(count: int) -> list[str]:
    """The beginnings of the first held-out Brown texts."""
    if not MODEL.exists() or not TEXTS.exists():
        raise InputError(
            f"{short(ASSETS)} does not hold the demo's model and texts; run `make assets`"
        )
    with TEXTS.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [text.encode()[:BYTES_PER_TEXT].decode(errors="ignore") for text in texts[:count]]


def measure(folder: Path, texts: Sequence[str]) -> Measured:
    """Load a model as anyone would and measure it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from bequest.evaluation.bits_per_byte import bits_per_byte

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    result = bits_per_byte(model, tokenizer, texts, progress=sys.stderr.isatty())
    assert result.standard_error is not None
    return Measured(
        layers=model.config.num_hidden_layers,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        bits_per_byte=result.bits_per_byte,
        standard_error=result.standard_error,
        guess=math.log2(model.config.vocab_size) * result.tokens / result.bytes,
        generated=go_on(model, tokenizer),
    )


def go_on(model: Any, tokenizer: Any) -> str:
    """What the model writes after the prompt, greedily, on one line."""
    inputs = tokenizer(PROMPT, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    return " ".join(tokenizer.decode(new, skip_special_tokens=True).split())


def title(text: str, line: str = "-") -> None:
    """Print a heading."""
    print(f"{text}\n{line * len(text)}\n", flush=True)


def comparison(whole: Measured, cut: Measured, seconds: float) -> list[Section]:
    """The results as sections of results.json."""
    rows = [
        ["layers", whole.layers, cut.layers],
        ["parameters", whole.parameters, cut.parameters],
        ["bytes of weight files", whole.weight_bytes, cut.weight_bytes],
        ["seconds to make", None, round(seconds, 1)],
        ["bits per byte", round(whole.bits_per_byte, 3), round(cut.bits_per_byte, 3)],
        ["its standard error", round(whole.standard_error, 3), round(cut.standard_error, 3)],
        ["bits per byte of a blind guess", round(whole.guess, 3), round(cut.guess, 3)],
    ]
    lines = [["whole", whole.generated], ["cut", cut.generated]]
    return [
        Section(
            title="Whole and cut",
            type="table",
            data={"columns": ["", "whole", "cut"], "rows": rows},
        ),
        Section(
            title=f'After "{PROMPT}"',
            type="table",
            data={"columns": ["model", "text"], "rows": lines},
        ),
    ]


def print_rows(section: Section) -> None:
    """Print a table of numbers, two models beside each other."""
    for label, *numbers in [section.data["columns"], *section.data["rows"]]:
        cells = [
            "" if cell is None else cell if isinstance(cell, str) else f"{cell:,}"
            for cell in numbers
        ]
        print(f"   {label:<31}" + "".join(f"{cell:>14}" for cell in cells))


def demo(out: Path, layers: int, count: int) -> None:
    """Run the demo and leave its results in `out`."""
    texts = held_out_texts(count)
    total = sum(len(text.encode()) for text in texts)
    student = out / f"SmolLM2-{layers}-layers"

    title("bequest: cut a small model out of a big one", "=")
    print("   No training, no GPU: the first blocks of a real model, as a model of their own.\n")

    title(f"1. Inherit the first {layers} blocks, the embeddings and the head")
    seconds = run_command("inherit", MODEL, student, "--layers", str(layers), "--overwrite")

    title(f"2. Read the beginnings of {len(texts)} held-out Brown texts ({total:,} bytes in all)")
    measured = []
    for name, folder in (("whole", MODEL), ("cut", student)):
        started = time.monotonic()
        measured.append(measure(folder, texts))
        print(f"   {name:<5}  {time.monotonic() - started:.0f} s", flush=True)
    whole, cut = measured
    sections = comparison(whole, cut, seconds)
    print()

    title("3. Compare")
    print_rows(sections[0])
    print(f"\n   {PROMPT} ...")
    print(f"   whole  ... {whole.generated}")
    print(f"   cut    ... {cut.generated}\n")
    print("   A cut model must be trained: its head has never read what its last block now gives,")
    print(
        "   so it writes nonsense. What it inherits is a start for training, not a finished model.\n"
    )

    title("Where everything lies")
    command = shlex.join(["examples/demo.py", "--layers", str(layers), "--texts", str(count)])
    results = write_results(out, command, sections)
    for label, path in (
        ("whole model", MODEL),
        ("cut model", student),
        ("its lineage", student / "bequest.json"),
        ("texts", TEXTS),
        ("results", results),
    ):
        print(f"   {label:<12} {short(path)}")


def main() -> int:
    """Read the options and run the demo; a refused input ends it with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "demo")
    parser.add_argument("--layers", type=int, default=15, help="blocks to keep (default: 15 of 30)")
    parser.add_argument("--texts", type=int, default=53, help="held-out texts (default: all 53)")
    options = parser.parse_args()
    if options.texts < 2:
        parser.error("--texts must be at least 2: a standard error needs two texts")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        demo(options.out.resolve(), options.layers, options.texts)
    except BequestError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
