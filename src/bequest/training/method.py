"""How a model is fine-tuned: FLOW's weights, and the rivals that hold it to where it started."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from bequest.errors import InputError
from bequest.weighting.schemes import SCHEMES, check_scheme

UNSCORED = ("uniform", "dft")
"""The schemes that need no losses beforehand."""
NORMALIZERS = ("tokens", "weights")
"""What the sum of weighted losses can be divided by."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What `FlowTrainer` does besides SFTTrainer's training; every part works with every weighting.

    Source: METHODS of FLOW, arXiv 2502.02797, section 5 and its appendix on baselines; SFA is
    arXiv 2501.05559, WiSE-FT 2109.01903, STM 2501.14315, DFT 2508.05629.

    Raises:
        InputError: A field is out of its range, or two of them cannot be had together.
    """

    scheme: str | None = None
    """Weights: flow, flow-token, stm, dft or uniform; left out: the score file's own, else flow."""
    temperature: str | None = None
    """Of the flow schemes: median, or nats; left out: the score file's own, else median."""
    normalizer: str = "tokens"
    """Divide the weighted loss by the number of response tokens, or by the sum of their weights."""
    scores: str | None = None
    """File that `bequest score` wrote; left out: the model scores the data before training."""
    l2: float = 0.0
    """Add l2 * ||theta - start||^2 / (number of trained parameters) to the loss."""
    kl: float = 0.0
    """Add kl * KL(start || theta), in nats a response token, to the loss."""
    sfa: int = 0
    """How many times in training, at equal distances and the last at its end, theta becomes
    (1 - sfa_alpha) * start + sfa_alpha * theta; the paper takes 4."""
    sfa_alpha: float = 0.5
    """Share of theta in each of these blends."""
    wise_ft: float | None = None
    """After training, theta becomes (1 - wise_ft) * start + wise_ft * theta; the paper takes 0.5."""
    linear_probe: bool = False
    """Train the head (the output embedding) alone."""

    def __post_init__(self) -> None:
        check_weighting(
            self.scheme, self.temperature, self.normalizer, has_scores=bool(self.scores)
        )
        for name in ("l2", "kl"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}; give a finite number, 0 for none")
        if self.sfa < 0:
            raise InputError(f"sfa is {self.sfa}; give how many times to blend, 0 for never")
        for name in ("sfa_alpha", "wise_ft"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(
                    f"{name} is {value}; give the share of the trained weights, between 0 and 1"
                )

    @property
    def keeps_start(self) -> bool:
        """Whether training needs a copy of the weights that it started from."""
        return bool(self.l2 or self.kl or self.sfa or self.wise_ft is not None)

    def check_adapters(self, is_adapted: bool) -> None:
        """Refuse what means nothing when only adapters are trained, before a model is loaded.

        Raises:
            InputError: A part of the method cannot be had with adapters.
        """
        if not is_adapted:
            return
        if self.linear_probe:
            raise InputError(
                "linear_probe trains the head alone, and LoRA adapters of other layers; choose one"
            )
        for name in ("l2", "sfa", "wise_ft"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which is about the model's own weights, but "
                    "LoRA trains only adapters; leave it out, or take kl"
                )


def check_weighting(
    scheme: str | None, temperature: str | float | None, normalizer: str, *, has_scores: bool
) -> None:
    """Refuse a weighting that no data could make right.

    Raises:
        InputError: A name is unknown, or two settings contradict one another.
    """
    if scheme == "dft":
        if temperature is not None:
            raise InputError(f"temperature is {temperature}, but scheme dft has none")
    elif scheme is not None and scheme not in SCHEMES:
        raise InputError(f"scheme is {scheme!r}; it is {_choices((*SCHEMES, 'dft'))}")
    else:
        check_scheme(scheme or "flow", temperature)
    if normalizer not in NORMALIZERS:
        raise InputError(f"normalizer is {normalizer!r}; it is 'tokens' or 'weights'")
    if scheme == "dft" and normalizer == "weights":
        raise InputError("normalizer 'weights' needs weights known beforehand, not scheme 'dft'")
    if scheme in UNSCORED and has_scores:
        raise InputError(f"scores is given, but scheme {scheme!r} uses none; leave one out")


def _choices(names: Collection[str]) -> str:
    *others, last = names
    return f"one of {', '.join(others)} or {last}"
