"""What one writes without a tool: all attention matrices of a sequence, one SVD a head.

Arguments: MODEL TEXTS OUT SEQUENCES LENGTH. Writes the mean rank and the mean mass of each block's
heads, each (L, H), as JSON. The rank is the fewest singular values, the mass the fewest columns that
hold 0.9 of the squared norm. Sequences are cut as `bequest diagnose` cuts them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bequest.inheritance.diagnose_plan import cut_sequences

_SHARE = 0.9


def fewest(powers: torch.Tensor) -> torch.Tensor:
    """How many of the largest powers, (..., T), hold their share of the sum."""
    held = powers.sort(dim=-1, descending=True).values.cumsum(-1)
    return (held < _SHARE * held[..., -1:] * (1 - 1e-6)).sum(-1) + 1


@torch.inference_mode()
def main() -> None:
    """Measure sequence by sequence."""
    source, texts, out, count, length = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line)["text"] for line in lines]
    sequences = cut_sequences(tokenizer, found, int(count), int(length))
    ranks, masses = [], []
    for sequence in torch.tensor(sequences):
        attentions = model(sequence[None], output_attentions=True).attentions
        matrices = torch.stack(attentions)[:, 0].double()
        ranks.append(fewest(torch.linalg.svdvals(matrices).square()))
        masses.append(fewest(matrices.square().sum(-2)))
    means = {
        name: torch.stack(values).double().mean(0).tolist()
        for name, values in (("rank", ranks), ("mass", masses))
    }
    Path(out).write_text(json.dumps(means), encoding="utf-8")


if __name__ == "__main__":
    main()
