"""Which averages a run keeps: LAWA, EMA and SWA as settings, without any state.

`bequest.averaging.live.WeightAverages` carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bequest.averaging.coefficients import coefficient_vector, paper_of
from bequest.averaging.mixture import Mixture
from bequest.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LatestWeightAverage:
    """LAWA: the average of the latest `window` snapshots, `spacing` steps apart.

    Snapshots are float32 files in the run's folder, so that the window costs disk and no memory.

    Source: arXiv 2306.03241, section 3; the coefficients other than uniform are WSM's,
    arXiv 2507.17634.
    """

    window: int = 5
    """How many snapshots are averaged; fewer while the run is younger than the window."""

    spacing: int
    """Steps between snapshots; one is taken where the step is a multiple of it."""

    start: int = 0
    """First step at which a snapshot may be taken."""

    coefficients: str | Sequence[float] = "uniform"
    """The snapshots' coefficients, oldest first: a spec of `bequest.averaging.coefficients`.
    Given as numbers there is no average until the window is full."""

    blend: float = 1.0
    """Share of the average, 0 to 1; the rest is the newest snapshot."""

    exclude: Sequence[str] = ()
    """Regular expressions, searched in tensor names; what matches is taken from the newest."""

    def __post_init__(self) -> None:
        _at_least("spacing", self.spacing, 1)
        _at_least("start", self.start, 0)
        coefficient_vector(self.coefficients, self.window)
        _ = self.mixture

    @property
    def paper(self) -> str:
        """What it is cited as, a key of `bequest.papers`."""
        return paper_of(self.coefficients)

    @property
    def mixture(self) -> Mixture:
        """How the snapshots are mixed."""
        return Mixture(coefficients=self.coefficients, blend=self.blend, exclude=self.exclude)

    def due(self, step: int) -> bool:
        """Return whether a snapshot is taken at this step."""
        return step >= max(self.start, 1) and step % self.spacing == 0


@dataclass(frozen=True, kw_only=True)
class ExponentialMovingAverage:
    """EMA of the weights, bias-corrected: it never remembers its own initial value.

    Source: arXiv 2306.03241, section 4 and released code (warm-up); the bias correction divides by
    the total weight, as in Adam.
    """

    beta: float = 0.999
    """Decay of each update, 0 up to but not 1. Updated every `every` steps, `beta ** every` has
    the same memory in steps."""

    every: int = 1
    """Steps between updates."""

    start: int = 0
    """First step at which it may be updated."""

    warmup: bool = True
    """Use ``min(beta, 1 - (1 + t)**(-2/3))`` at update t, counted from 0: early on the memory is
    short, so that the average does not lag behind fast progress."""

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("start", self.start, 0)
        if not 0 <= self.beta < 1:
            raise InputError(f"beta is {self.beta}: give a decay from 0 up to but not 1.")

    @property
    def paper(self) -> str:
        """What it is cited as, a key of `bequest.papers`."""
        return "ema"

    def due(self, step: int) -> bool:
        """Return whether it is updated at this step."""
        return step >= max(self.start, 1) and step % self.every == 0

    def decay(self, updates: int) -> float:
        """Return the decay of the next update, after `updates` earlier ones."""
        warm = 1 - (1 + updates) ** (-2 / 3)
        return min(self.beta, warm) if self.warmup else self.beta


@dataclass(frozen=True, kw_only=True)
class StochasticWeightAverage:
    """SWA: the equal running mean of the weights from step `start` on.

    Source: arXiv 1803.05407; `every` = 10 from 75 % of training on in arXiv 2306.03241.
    """

    start: int
    """First step that counts; 75 % of all steps is usual, an early start ends far worse."""

    every: int = 10
    """Steps between updates."""

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("start", self.start, 0)

    @property
    def paper(self) -> str:
        """What it is cited as, a key of `bequest.papers`."""
        return "swa"

    def due(self, step: int) -> bool:
        """Return whether it is updated at this step."""
        return step >= max(self.start, 1) and step % self.every == 0

    def decay(self, updates: int) -> float:
        """Return the weight of the mean so far against one more member."""
        return updates / (updates + 1)


Recipe = LatestWeightAverage | ExponentialMovingAverage | StochasticWeightAverage


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{field} is {value}: give a whole number of steps from {least} up.")
