"""The `averages` mapping of a run's configuration: LAWA, EMA and SWA by a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    Recipe,
    StochasticWeightAverage,
)
from bequest.errors import InputError

TRAINED = "trained"
"""The weights that training ends with, as opposed to an average's."""
_KINDS: dict[str, type[Any]] = {
    "lawa": LatestWeightAverage,
    "ema": ExponentialMovingAverage,
    "swa": StochasticWeightAverage,
}


def average_recipes(averages: Mapping[str, Any]) -> dict[str, Recipe]:
    """Make the averages that a configuration names.

    Args:
        averages: the settings of each by its name, which is its kind (`lawa`, `ema`, `swa`), or
            any other if the settings have a `kind`.

    Raises:
        InputError: a name, a setting or its value is not one that the average has.
    """
    made: dict[str, Recipe] = {}
    for name, given in averages.items():
        if not isinstance(given, Mapping):
            raise InputError(f"averages.{name} is {given!r}; give its settings, such as spacing")
        settings = dict(given)
        kind = settings.pop("kind", name)
        if kind not in _KINDS:
            raise InputError(
                f"averages.{name} is of the kind {kind!r}; choose of {', '.join(_KINDS)}"
            )
        if name == TRAINED or not str(name).isidentifier():
            raise InputError(f"averages names {name!r}; give letters, digits and '_'")
        try:
            made[name] = _KINDS[kind](**settings)
        except TypeError as error:
            wrong = next((key for key, value in settings.items() if isinstance(value, str)), None)
            if "not supported between" in str(error) and wrong is not None:
                raise InputError(
                    f"averages.{name}.{wrong} is {settings[wrong]!r}; give a number"
                ) from error
            # "X.__init__() got an unexpected keyword argument 'y'" or "missing ... argument: 'z'".
            reason = str(error).partition("() ")[2] or str(error)
            raise InputError(f"averages.{name} {reason}") from error
        except InputError as error:
            raise InputError(f"averages.{name}: {error}") from error
    return made


def check_weights(weights: str, recipes: Mapping[str, Recipe]) -> None:
    """Refuse weights that a run will not have.

    Raises:
        InputError: `weights` is neither `trained` nor the name of an average.
    """
    if weights not in (TRAINED, *recipes):
        there = ", ".join((TRAINED, *recipes))
        raise InputError(f"weights is {weights!r}; those of this run are {there}")
