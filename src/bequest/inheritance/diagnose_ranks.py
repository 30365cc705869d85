"""Attention rank and mass: how few directions, and how few tokens, an attention matrix really uses.

Source: "When Attention Collapses" (Inheritune, arXiv 2404.08634 v4, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def attention_rank(attention: Tensor, threshold: float = 0.90) -> Tensor:
    """Return k* = min{k : sum of the k largest sigma_i^2 >= threshold * sum of all sigma_j^2}.

    The squared singular values of A are the eigenvalues of A A^T. An eigenvalue computed from the
    product is wrong by up to about `T * eps * ||A||_F^2` (rounding of the product, backward error
    of the solver, Weyl), which ruins small singular values. But k* asks only for shares of
    `||A||_F^2`, and those are right to some `T^2 * eps`: 1e-12 for T = 100 in float64. That takes a
    fraction of the time of an SVD. Shares that miss the threshold by less than that count as ties,
    and ties as reached.

    Args:
        attention: ... x T x T, of any float dtype; computed with in float64 on the CPU.
        threshold: share of the squared Frobenius norm, in (0, 1].

    Returns:
        int64, the leading dimensions.
    """
    matrices = attention.to("cpu", torch.float64)
    with _one_thread():
        powers = torch.linalg.eigvalsh(matrices @ matrices.mT).flip(-1)
    return _fewest(powers.clamp_min(0.0), threshold)


def attention_mass(attention: Tensor, threshold: float = 0.90) -> Tensor:
    """Return m*: the least number of columns whose squared norms hold that share of ||A||_F^2.

    m* = 1 is the single-column structure: every token looks at one and the same.

    Args:
        attention: ... x T x T, of any float dtype; computed with in float64 on the CPU.
        threshold: share of the squared Frobenius norm, in (0, 1].

    Returns:
        int64, the leading dimensions.
    """
    matrices = attention.to("cpu", torch.float64)
    powers = matrices.square().sum(dim=-2).sort(dim=-1, descending=True).values
    return _fewest(powers, threshold)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Solve small problems in this thread alone: threads that wait for each other cost far more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fewest(powers: Tensor, threshold: float) -> Tensor:
    """Return how many of the sorted powers it takes to reach a share of their sum."""
    reached = powers.cumsum(dim=-1)
    slack = powers.shape[-1] ** 2 * torch.finfo(torch.float64).eps
    wanted = (threshold - slack) * reached[..., -1:]
    return (reached < wanted).sum(dim=-1) + 1
