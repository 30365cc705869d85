"""Run the three methods on a real model and report what comes of it: `make demo`.

Every step is a command, printed as it can be copied. Broken off, it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo_steps import BROWN, CONFIGS, MODEL, ROOT, Step, prepare, settings, short, steps

from bequest.errors import BequestError, InputError

STATE = "demo.json"
"""What the folder was made with, and the seconds and CPU seconds of its finished steps."""
STOPPED = 130


def title(text: str, line: str = "-") -> None:
    """Print a heading."""
    print(f"{text}\n{line * len(text)}\n", flush=True)


def run_command(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Print a bequest command as it can be copied, run it, and return its seconds and CPU seconds.

    Raises:
        SystemExit: it failed; it has said why.
    """
    command = [str(Path(sys.executable).with_name("bequest")), *arguments]
    print(f"   $ {shlex.join([short(command[0]), *arguments])}\n", flush=True)
    started, before = time.monotonic(), cpu_seconds()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        # The terminal interrupts the command as well: let it leave its files in order.
        child.wait()
        raise
    if code in (STOPPED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code != 0:
        raise SystemExit(code)
    print(flush=True)
    return time.monotonic() - started, cpu_seconds() - before


def remove_run(folder: Path) -> None:
    """Remove the checkpoints of a run whose model is published, and say so."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"   $ rm -r {shlex.quote(short(folder))}")
    print(f"     checkpoints with optimizer states, {size / 1e9:.1f} GB (--keep-runs keeps them)\n")
    shutil.rmtree(folder)


def cpu_seconds() -> float:
    """What all commands so far took of all cores: it says more than the clock on a busy machine."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def demo(out: Path, layers: int, scale: float, keep_runs: bool = False) -> None:
    """Run all steps that are not done yet, then say what came of them."""
    if not MODEL.exists() or not BROWN.exists():
        raise InputError(f"{short(MODEL.parent)} lacks the model or the texts; run `make assets`")
    plan = steps(out, layers, scale)
    state = read_state(out, plan)
    title("bequest: inherit, average, fine-tune and forget less, on a real model", "=")
    print("   Every step is a command to copy; the settings of the training runs lie in")
    print(f"   {short(CONFIGS)}, all that is made in {short(out)}.")
    print("   It shows how, in minutes: models trained for so few steps are no good yet.\n")
    prepare(out, scale)
    for number, step in enumerate(plan, 1):
        title(f"{number}/{len(plan)}  {step.title}")
        if step.done.exists() and "report" not in step.arguments:
            print(f"   done before: {short(step.done)}\n", flush=True)
        else:
            spent = run_command(step.arguments)
            state["seconds"][step.title] = [round(seconds, 1) for seconds in spent]
            write_state(out, state)
        if not keep_runs and step.needless is not None and step.needless.exists():
            remove_run(step.needless)
    conclude(out, plan, state)


def read_state(out: Path, plan: list[Step]) -> dict[str, Any]:
    """Return the state of `out`, a new one if there is none.

    Raises:
        InputError: the folder holds a demo of other settings.
    """
    digest = hashlib.sha256(settings(plan).encode()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    path = out / STATE
    if not path.exists():
        if any(out.iterdir()):
            raise InputError(f"{short(out)} holds other files; remove it or choose another --out")
        state: dict[str, Any] = {"settings": digest, "seconds": {}}
        write_state(out, state)
        return state
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["settings"] != digest:
        raise InputError(
            f"{short(out)} holds a demo of other settings; remove it or choose another --out"
        )
    return state


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Write the state, whole or not at all."""
    part = out / f"{STATE}.part"
    part.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    part.replace(out / STATE)


def table_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table in a folder's results.json, by their columns."""
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    data = next(part["data"] for part in document["sections"] if part["title"] == name)
    return [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


def scores(folder: Path, task: str) -> dict[str, float]:
    """Bits per byte of all models of an evaluation, the first one's included."""
    rows = [row for row in table_of(folder, "Gains and losses") if row["task"] == task]
    found = {rows[0]["before"]: rows[0]["score before"]}
    return found | {row["after"]: row["score after"] for row in rows}


def answer_losses(folder: Path) -> tuple[float, float]:
    """Loss of the held-out answers before and after a fine-tuning run."""
    wanted = "held-out loss (nats/token)"
    row = next(row for row in table_of(folder, "Run") if row["what"] == wanted)
    return row["first"], row["last"]


def conclude(out: Path, plan: list[Step], state: dict[str, Any]) -> None:
    """Print the tables of what came of it, and where the report lies."""
    title("What came of it")
    parameters = {row["label"]: row["parameters"] for row in table_of(out / "depth", "Models")}
    print_row("", "blocks", "parameters", "bits per byte")
    found = scores(out / "depth", "brown.jsonl")
    for name, bits in found.items():
        folder = MODEL if name == "whole" else out / name
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        blocks = config["num_hidden_layers"]
        print_row(name, str(blocks), f"{parameters[name]:,}", f"{bits:.3f}")
    print(
        "\n   A cut model must be trained far longer than here: so few steps only begin to mend it."
    )
    if found["averaged"] > found["trained"]:
        print("   Its average lags: while the loss falls this fast, older weights are worse ones.")
    else:
        print("   The mean of its last checkpoints is better than the last one, for nothing.")
    print("   Averages pay where the learning rate is high (docs/averaging.md).\n")

    print_row("", "answers", "questions", "Brown")
    kept, target = (scores(out / "forgetting", task) for task in ("brown.jsonl", "questions.jsonl"))
    losses = {name: answer_losses(out / name) for name in ("standard", "flow")}
    answers = {"before": losses["standard"][0]} | {name: pair[1] for name, pair in losses.items()}
    for name, loss in answers.items():
        print_row(name, f"{loss:.3f}", f"{target[name]:.3f}", f"{kept[name]:.3f}")
    print(
        "\n   answers: held-out loss in nats/token; questions with answers and Brown: bits per byte."
    )
    print(
        "   One short run each says nothing of the methods: experiments/RESULTS.md has long ones.\n"
    )

    spent = state["seconds"]
    for number, step in enumerate(plan, 1):
        wall, cpu = spent.get(step.title, (0.0, 0.0))
        print_row(f"{number}  {step.arguments[0]}", f"{wall:.0f} s", f"{cpu:.0f} s of CPU")
    print_row("in all", f"{sum(wall for wall, _ in spent.values()):.0f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    print(f"   The largest command of this run took {peak / 1e9:.1f} GB of memory.\n")
    print(f"   report: {short(out / 'report.html')}", flush=True)


def print_row(name: str, *cells: str) -> None:
    """Print a line of a table."""
    print(f"   {name:<12}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> int:
    """Read the options and run the demo; a refused input ends it with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="folder to write (default: below .cache)")
    parser.add_argument("--layers", type=int, default=15, help="blocks to keep (default: 15 of 30)")
    parser.add_argument(
        "--scale", type=float, default=1, help="times as many steps and samples (default: 1)"
    )
    parser.add_argument(
        "--keep-runs", action="store_true", help="keep the training runs' checkpoints (7 GB)"
    )
    options = parser.parse_args()
    if not 0 < options.scale < float("inf"):
        parser.error(f"--scale is {options.scale}; give a number above 0")
    suffix = "" if options.scale == 1 else f"-x{options.scale:g}"
    out = options.out or ROOT / ".cache" / f"demo{suffix}"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        demo(out.absolute(), options.layers, options.scale, options.keep_runs)
    except BequestError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted; run it again to go on", file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
