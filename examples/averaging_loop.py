"""LAWA and EMA in a training loop of one's own: a byte-level model of Python's own source files.

    python examples/averaging_loop.py --run /tmp/averaging --steps 200

Killed, it goes on from its last checkpoint when it is started again, averages included. The lines
that bequest needs are marked with `# <-`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import bequest

LENGTH, BATCH = 128, 8


def text() -> Tensor:
    """The bytes of the standard library's modules, as token ids."""
    sources = sorted(Path(json.__file__).parents[1].glob("*.py"))[:80]
    return torch.tensor(list(b"".join(source.read_bytes() for source in sources)))


def batch(tokens: Tensor, seed: int) -> Tensor:
    """Random windows of the text, shape (BATCH, LENGTH)."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=generator)
    return torch.stack([tokens[start : start + LENGTH] for start in starts])


@torch.no_grad()
def validation_loss(model: nn.Module, tokens: Tensor) -> float:
    """Mean loss of held-out windows, in nats a byte."""
    losses = [model(input_ids=ids, labels=ids).loss for ids in (batch(tokens, s) for s in range(8))]
    return float(torch.stack(losses).mean())


def main() -> None:
    """Train, and compare the averages with the raw model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=50)
    options = parser.parse_args()

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)  # constant and high: LAWA's ground
    averages = bequest.WeightAverages(  # <-
        options.run,  # <-
        lawa=bequest.LatestWeightAverage(window=5, spacing=max(1, options.steps // 40)),  # <-
        ema=bequest.ExponentialMovingAverage(beta=0.95),  # <-
    )  # <-

    first = 1
    saved = sorted(int(f.parent.name.split("-")[1]) for f in options.run.glob("*/training.pt"))
    if saved:
        checkpoint = options.run / f"checkpoint-{saved[-1]}"
        state = torch.load(checkpoint / "training.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averages.load(checkpoint, model)  # <-
        first = saved[-1] + 1

    tokens = text()
    held_out, trained_on = tokens[: len(tokens) // 10], tokens[len(tokens) // 10 :]
    for step in range(first, options.steps + 1):
        ids = batch(trained_on, 1000 + step)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        averages.update(step, model, optimizer)  # <-
        if step % options.save_every == 0:
            checkpoint = options.run / f"checkpoint-{step}"
            averages.save(checkpoint)  # <-
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint / "training.part")
            (checkpoint / "training.part").rename(checkpoint / "training.pt")
            losses = {"raw": validation_loss(model, held_out)}
            for name in averages.names:  # <-
                with averages.applied(model, name):  # <-
                    losses[name] = validation_loss(model, held_out)
            print(json.dumps({"step": step} | {k: round(v, 4) for k, v in losses.items()}))
    averages.finish()  # <-


if __name__ == "__main__":
    main()
