"""Ranks, masses and block influence, a few sequences at a time, nothing of an attention matrix kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bequest.inheritance.diagnose_anatomy import Anatomy
from bequest.inheritance.diagnose_ranks import attention_mass, attention_rank
from bequest.inheritance.diagnose_watch import watching_attention, watching_blocks


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """What was measured of each sequence."""

    ranks: tuple[NDArray[np.float32], ...]
    """k* for each block: sequences x heads; no heads where a block has no softmax attention."""
    masses: tuple[NDArray[np.float32], ...]
    """m*, likewise."""
    influence: NDArray[np.float32]
    """1 - the mean cosine between a block's input and output: sequences x blocks."""

    def packed(self) -> NDArray[np.float32]:
        """Return all numbers in one row, for a file."""
        parts = [*self.ranks, *self.masses, self.influence]
        return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def unpacked(values: NDArray[np.float32], heads: Sequence[int], sequences: int) -> Measures:
    """Return what `Measures.packed` put into a row.

    Args:
        values: the row.
        heads: query heads of each block, 0 without softmax attention.
        sequences: how many sequences were measured.
    """
    sizes = [sequences * count for count in (*heads, *heads)]
    *parts, influence = np.split(values, np.cumsum(sizes))
    shaped = [
        part.reshape(sequences, count) for part, count in zip(parts, (*heads, *heads), strict=True)
    ]
    depth = len(heads)
    return Measures(
        ranks=tuple(shaped[:depth]),
        masses=tuple(shaped[depth:]),
        influence=influence.reshape(sequences, depth),
    )


def joined(parts: Sequence[Measures]) -> Measures:
    """Return the measures of several groups of sequences as one."""
    depth = len(parts[0].ranks)
    return Measures(
        ranks=tuple(np.concatenate([part.ranks[b] for part in parts]) for b in range(depth)),
        masses=tuple(np.concatenate([part.masses[b] for part in parts]) for b in range(depth)),
        influence=np.concatenate([part.influence for part in parts]),
    )


def measure(
    model: nn.Module,
    anatomy: Anatomy,
    widths: Sequence[int | None],
    input_ids: Tensor,
    threshold: float,
) -> Measures:
    """Run sequences through a model and measure each block while it runs.

    A block whose tokens look back on `w` tokens only is measured on the first `w` tokens of a
    sequence, where its attention is the plain causal matrix that the definitions speak of. In the
    whole band no matrix could have a rank near one, however little it attends to.

    Args:
        model: the model of `anatomy`, in evaluation mode.
        anatomy: from `find_anatomy`.
        widths: from `attention_widths`.
        input_ids: sequences of one length, count x length, on the model's device.
        threshold: share of the squared Frobenius norm that rank and mass must hold.
    """
    depth, count = len(anatomy.blocks), len(input_ids)
    empty: NDArray[np.float32] = np.zeros((count, 0), dtype=np.float32)
    ranks, masses = [empty] * depth, [empty] * depth
    influence = np.zeros((count, depth), dtype=np.float32)

    def see_attention(block: int, weights: Tensor) -> None:
        width = widths[block]
        matrices = weights[..., :width, :width].to("cpu", torch.float64)
        ranks[block] = attention_rank(matrices, threshold).numpy().astype(np.float32)
        masses[block] = attention_mass(matrices, threshold).numpy().astype(np.float32)

    def see_block(block: int, before: Tensor, after: Tensor) -> None:
        influence[:, block] = block_influence(before, after).numpy()

    with (
        torch.no_grad(),
        watching_attention(anatomy, see_attention),
        watching_blocks(anatomy, see_block),
    ):
        model(input_ids=input_ids, **_without_logits(model))
    return Measures(ranks=tuple(ranks), masses=tuple(masses), influence=influence)


def block_influence(before: Tensor, after: Tensor) -> Tensor:
    """Return BI = 1 - the mean over a sequence's tokens of cos(block's input, block's output).

    Source: ShortGPT (arXiv 2403.03853), equation 1.

    Args:
        before: batch x length x hidden.
        after: of the same shape.

    Returns:
        float64 on the CPU, one a sequence.
    """
    cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1, eps=1e-30)
    return (1.0 - cosine.mean(dim=-1)).cpu()


def _without_logits(model: nn.Module) -> dict[str, Any]:
    """Return the arguments of a forward pass that asks for one position's logits only."""
    import inspect

    known = inspect.signature(model.forward).parameters
    asked: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in known:
        asked["logits_to_keep"] = 1
    return asked
