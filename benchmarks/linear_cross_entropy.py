"""Loss and gradients of a weighted linear cross-entropy: bequest and its peers, time and memory.

`python -m benchmarks.linear_cross_entropy` measures each way in fresh processes, in turn,
and puts its section into RESULTS.md. Each must find the same loss and the same gradients.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.harness import ROOT, BenchmarkError, Spread, digits
from benchmarks.page import provenance, table, write_section
from benchmarks.peak import PeakMemory

Way = Callable[..., Any]
"""From hidden states, head, labels and weights to the weighted sum of the losses."""

AGREEMENT = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far the ways may differ, relative to the dense way."""


def bequest(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """The function that this benchmark is about."""
    from bequest.losses.linear_cross_entropy import weighted_linear_cross_entropy

    return weighted_linear_cross_entropy(hidden, head, labels, weights)


def dense(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """All logits, then the cross-entropy in float32: what models do."""
    from torch.nn import functional as F

    logits = F.linear(hidden, head).float()
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum()


def torch_plain(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """Torch's function, not asked to chunk."""
    from torch.nn import functional as F

    return (F.linear_cross_entropy(hidden, head, labels, reduction="none") * weights).sum()


def torch_chunked(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """Torch's function with its own choice of chunks."""
    from torch import nn
    from torch.nn import functional as F

    losses = F.linear_cross_entropy(
        hidden, head, labels, reduction="none", options=nn.LinearCrossEntropyOptions()
    )
    return (losses * weights).sum()


def trl(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """What SFTTrainer's fused head calls, with the settings that it has there."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    outputs = ChunkedLogProbFunction.apply(
        hidden, head, None, labels, 1.0, CHUNK, None, 1.0, ("log_probs",)
    )
    return -(outputs[0] * weights).sum()


def liger(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """Liger's fused linear cross-entropy, unreduced."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return (
        LigerFusedLinearCrossEntropyLoss(reduction="none")(head, hidden, labels) * weights
    ).sum()


def cce(hidden: Any, head: Any, labels: Any, weights: Any) -> Any:
    """Apple's cut cross-entropy, unreduced."""
    from cut_cross_entropy import linear_cross_entropy

    return (linear_cross_entropy(hidden, head, labels, reduction="none") * weights).sum()


WAYS: dict[str, Way] = {
    "bequest": bequest,
    "dense": dense,
    "torch linear_cross_entropy": torch_plain,
    "torch linear_cross_entropy, chunked": torch_chunked,
    "TRL fused head": trl,
    "Liger": liger,
    "CCE": cce,
}


def present(device: str) -> list[str]:
    """Return the ways that this machine can run."""
    from torch import nn
    from torch.nn import functional as F

    here = {
        "torch linear_cross_entropy": hasattr(F, "linear_cross_entropy"),
        "torch linear_cross_entropy, chunked": hasattr(nn, "LinearCrossEntropyOptions"),
        "TRL fused head": find_spec("trl") is not None,
        "Liger": device == "cuda" and find_spec("liger_kernel") is not None,
        "CCE": device == "cuda" and find_spec("cut_cross_entropy") is not None,
    }
    return [name for name in WAYS if here.get(name, True)]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run one way in this process: once for its memory, then `calls` times for its time."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    dtype, device = getattr(torch, options.dtype), options.device
    run = WAYS[options.way]

    def problem(tokens: int, classes: int) -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(tokens, options.hidden, generator=generator)
        head = 0.05 * torch.randn(classes, options.hidden, generator=generator)
        labels = torch.randint(0, classes, (tokens,), generator=generator).to(device)
        weights = torch.rand(tokens, generator=generator).to(device)
        return [t.to(device, dtype).requires_grad_() for t in (hidden, head)] + [labels, weights]

    def once(inputs: list[Any]) -> float:
        inputs[0].grad = inputs[1].grad = None
        loss = run(*inputs)
        loss.backward()
        return float(loss.detach())

    once(problem(64, 1024))  # libraries are loaded and their buffers made
    inputs = problem(options.tokens, options.classes)
    peak = PeakMemory(device)
    loss = once(inputs)
    found = {"loss": loss, "bytes": float(peak.bytes())}
    found["hidden"], found["head"] = (float(t.grad.double().norm()) for t in inputs[:2])
    best = float("inf")
    for _ in range(options.calls):
        inputs[0].grad = inputs[1].grad = None
        started = time.perf_counter()
        once(inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return {**found, "seconds": best}


def measure_in_turn(options: argparse.Namespace, dtype: str) -> dict[str, list[dict[str, float]]]:
    """Run every way in a process of its own, all of them in turn, `rounds` times."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in present(options.device)}
    for number in range(options.rounds):
        for name in runs:
            arguments = [*sys.argv[1:], "--way", name, "--dtype", dtype]
            command = [sys.executable, "-m", "benchmarks.linear_cross_entropy", *arguments]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkError(f"{name} failed: {done.stderr[-2000:]}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            seconds = runs[name][-1]["seconds"]
            print(f"  {dtype}, round {number + 1}: {name}: {seconds:.3f} s", flush=True)
    return runs


def check(runs: dict[str, list[dict[str, float]]], dtype: str) -> None:
    """Raise unless all ways found the loss and the gradients of the dense way."""
    for name, measured in runs.items():
        for what in ("loss", "hidden", "head"):
            expected = runs["dense"][0][what]
            if abs(measured[0][what] - expected) > AGREEMENT[dtype] * abs(expected):
                raise BenchmarkError(
                    f"{name}, {dtype}: {what} is {measured[0][what]}, not {expected}"
                )


def report(runs: dict[str, list[dict[str, float]]], dtype: str) -> str:
    """Return the table of one dtype."""
    fastest = min(run["seconds"] for measured in runs.values() for run in measured)
    most = min(run["bytes"] for run in runs["dense"])
    rows = []
    for name, measured in runs.items():
        seconds = Spread.of(run["seconds"] for run in measured)
        held = Spread.of(run["bytes"] / 1e6 for run in measured)
        shares = f"{seconds.low / fastest:.2f}", f"{held.median * 1e6 / most:.2f}"
        rows.append([name, str(seconds), shares[0], str(held), shares[1]])
    columns = ["way", "seconds", "of the fastest", "MB above the inputs", "of the dense"]
    return f"{dtype}:\n\n{table(columns, rows)}"


def main() -> None:
    """Measure, print the tables, and write them down if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--classes", type=int, default=49152)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way")
    parser.add_argument("--calls", type=int, default=2, help="timed calls in each process")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--print", action="store_true", help="print instead of writing RESULTS.md")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    tables = []
    for dtype in options.dtypes:
        runs = measure_in_turn(options, dtype)
        check(runs, dtype)
        tables.append(report(runs, dtype))
    shape = f"{options.tokens} x {options.hidden} against {options.classes} classes"
    facts = provenance(packages=["torch", "transformers", "trl"], folder=ROOT)
    body = (
        f"Weighted loss and both gradients, {shape}, {options.device}; the best of {options.calls} "
        f"calls in each of {digits(options.rounds)} processes. All ways found the same loss and "
        "gradients.\n\n" + "\n".join(tables) + "\n" + facts
    )
    print(body)
    if not options.print:
        write_section("linear-cross-entropy", "Weighted linear cross-entropy", body)


if __name__ == "__main__":
    main()
