"""What goes into each tensor of an average: the coefficients, the blend, the exclusions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bequest.averaging.coefficients import Vector, blended, coefficient_vector
from bequest.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How an average is made of a window's members, tensor by tensor."""

    coefficients: str | Sequence[float] = "uniform"
    """The members' coefficients, oldest first: a spec of `bequest.averaging.coefficients`."""

    blend: float = 1.0
    """Share of the average, 0 to 1; the rest is the newest member. Below 1 the result lags less."""

    exclude: Sequence[str] = ()
    """Regular expressions, searched in tensor names; what matches is taken from the newest."""

    def __post_init__(self) -> None:
        blended(np.ones(1), self.blend)
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"exclude has {pattern!r}, which is no regular expression ({error})."
                ) from error

    def check_names(self, names: Collection[str]) -> None:
        """Refuse a pattern of `exclude` that matches none of the tensor names: it is misspelt.

        Raises:
            InputError: A pattern matches no name.
        """
        for pattern in self.exclude:
            if not any(re.search(pattern, name) for name in names):
                raise InputError(
                    f"exclude has {pattern!r}, which matches no tensor: the names look like "
                    f"{sorted(names)[0]!r}."
                )

    def fits(self, members: int) -> bool:
        """Return whether the coefficients fit that many members: named forms fit any number."""
        try:
            coefficient_vector(self.coefficients, members)
        except InputError:
            return False
        return True

    def vector(self, name: str, members: int) -> Vector:
        """Return the coefficients of tensor `name` over `members` checkpoints, oldest first.

        Raises:
            InputError: The coefficients do not fit that many members.
        """
        vector = coefficient_vector(self.coefficients, members)
        excluded = any(re.search(pattern, name) for pattern in self.exclude)
        return blended(vector, 0.0 if excluded else self.blend)
