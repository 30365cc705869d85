"""Which classes of a classifier stand for the classes of some images: by name, number or group."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError
from bequest.evaluation.image_accuracy import Flags, Floats, check_groups, group_scores, is_right

Groups = Mapping[str, Sequence[int | str]]
"""For each class of some data the classes of a model, by number or name."""

_UNNAMED = re.compile(r"(LABEL_)?\d+")


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """A model's classes for each class of some data."""

    numbers: list[list[int]]
    """Of each class of the data, the model's."""
    grouped: bool
    """Whether a group's probabilities are added up; otherwise each class has one of its own, and
    the best of all the model's classes must be it."""

    def right(self, logits: Floats, labels: NDArray[np.int64]) -> Flags:
        """Return for each image whether the model's best class is the image's.

        Args:
            logits: shape (N, classes of the model).
            labels: N class numbers of the data.
        """
        if self.grouped:
            return is_right(group_scores(logits, self.numbers), labels)
        return is_right(logits, np.array([row[0] for row in self.numbers])[labels])


def match_classes(
    own: Sequence[str],
    names: Sequence[str],
    groups: Groups | None,
    *,
    field: str,
    option: str,
    model: str,
    hint: str = "",
) -> ClassMap:
    """Find for each class of some data the classes of a model that stand for it.

    Without groups, a class of the data is the model's of the same name; where one of the two has
    numbers for names, the one of the same number, if there are as many.

    Args:
        own: names of the model's classes.
        names: of the data's classes.
        groups: the model's classes for each of them, by number or name.
        field: what the caller calls the data, for messages.
        option: what the caller calls the groups.
        model: what the caller calls the model.
        hint: added to what is said to do.

    Raises:
        InputError: the model has no such classes, or nothing says which they are.
    """
    known = {name: number for number, name in enumerate(own)}
    if groups is not None:
        if set(groups) != set(names):
            odd = sorted(set(groups) ^ set(names))
            raise InputError(
                f"{option} and the classes of {field} differ by {odd[0]!r}; give a list for every "
                "class of the data, by its name"
            )
        found = [
            [_number(one, own, known, option, model, hint) for one in groups[n]] for n in names
        ]
        try:
            check_groups(found, len(own))
        except InputError as error:
            raise InputError(f"{option} does not fit {model}: {error}{hint}") from error
        return ClassMap(numbers=found, grouped=True)
    named = not all(_UNNAMED.fullmatch(name) for name in own)
    if named and set(names) <= set(own):
        found = [[_number(name, own, known, option, model, hint)] for name in names]
        return ClassMap(numbers=found, grouped=False)
    if len(names) == len(own) and not (named and not all(map(str.isdecimal, names))):
        return ClassMap(numbers=[[number] for number in range(len(own))], grouped=False)
    odd_one = next((name for name in names if name not in known), names[0])
    raise InputError(
        f"{field} has {len(names)} classes, such as {odd_one!r}, and {model} {len(own)}, such as "
        f"{own[0]!r}; say with {option} which belong together{hint}"
    )


def _number(
    one: int | str, own: Sequence[str], known: Mapping[str, int], option: str, model: str, hint: str
) -> int:
    if isinstance(one, int):
        return one
    if one not in known:
        raise InputError(
            f"{option} names {one!r}, which {model} does not have; give its names, or numbers{hint}"
        )
    if own.count(one) > 1:
        raise InputError(
            f"{one!r} is the name of {own.count(one)} classes of {model}; say with {option} which "
            "is meant, by number"
        )
    return known[one]


def read_groups(path: str, option: str) -> Groups:
    """Read a JSON object from a class of some data to the classes of a model.

    Args:
        path: of the file.
        option: what the caller calls it, for messages.

    Raises:
        InputError: the file cannot be read or is not of this form.
    """
    try:
        groups = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{option} {path} cannot be read: {error}") from error
    if not isinstance(groups, dict) or not all(
        isinstance(group, list) and group and all(type(one) in (int, str) for one in group)
        for group in groups.values()
    ):
        raise InputError(
            f"{option} {path} must be an object from each class of the data to a list of the "
            "model's classes, by number or name"
        )
    return groups
