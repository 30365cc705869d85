"""What a run is asked to learn from another model's distribution; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bequest.errors import InputError

_NUMBERS = ("weight", "temperature")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """The loss becomes (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || model).

    Both distributions are softened by the temperature; its square keeps the gradient's size. Source:
    Hinton et al., arXiv 1503.02531, section 2.
    """

    teacher: str
    """The model to learn from, with the same tokenizer: a folder, or a hub id."""
    weight: float = 0.5
    """Share of the teacher in the loss: above 0, 1 for the teacher alone."""
    temperature: float = 1.0
    """What both models' logits are divided by."""
    revision: str | None = None
    """Branch, tag or commit, if the teacher is a hub id."""

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"distillation.{name} is {value!r}; give a number")
        if not 0 < self.weight <= 1:
            raise InputError(
                f"distillation.weight is {self.weight}; give a share above 0 and at most 1"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(
                f"distillation.temperature is {self.temperature}; give a number above 0"
            )


def read_distillation(given: Mapping[str, Any]) -> DistillationConfig | None:
    """Read the `distillation` mapping of a configuration; None if it is empty.

    Raises:
        InputError: a field is missing, unknown, or has a value that it cannot have.
    """
    if not given:
        return None
    known = [field.name for field in dataclasses.fields(DistillationConfig)]
    for name in given:
        if name not in known:
            raise InputError(f"distillation has {name!r}; it takes {', '.join(known)}")
    if not given.get("teacher"):
        raise InputError("distillation.teacher is missing; name the model to learn from")
    fields = {name: _number(value) for name, value in given.items() if name in _NUMBERS}
    return DistillationConfig(**{**given, **fields, "teacher": str(given["teacher"])})


def _number(value: Any) -> Any:
    """Read a flag's text, and YAML's `1e-1`, as the number that it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
