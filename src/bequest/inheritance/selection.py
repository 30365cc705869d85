"""Which blocks: "18" is the first 18, "0-11,20-23" are those."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from bequest.errors import InputError

_EXAMPLE = '"0-11,20-23"'
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def select_layers(layers: str, num_hidden_layers: int) -> tuple[int, ...]:
    """Return the blocks that a selection names, in their order in the source.

    Args:
        layers: a count ("18": the first 18 blocks), or blocks and ranges with both ends included
            ("0-11,20-23"; a single block is "7-7").
        num_hidden_layers: blocks that the source has.

    Raises:
        InputError: the selection is empty, malformed, repeated, out of order or beyond the source.
    """
    text = layers.strip()
    if re.fullmatch(r"-?\d+", text):
        return _first(int(text), num_hidden_layers)
    indices = _parse(text)
    if not indices:
        raise InputError(
            f'layers is empty; give a count such as "18" or blocks such as {_EXAMPLE}.'
        )
    for index in indices:
        if not 0 <= index < num_hidden_layers:
            raise InputError(
                f"layers names block {index}, but the source has blocks 0 to {num_hidden_layers - 1}."
            )
    for before, after in itertools.pairwise(indices):
        if after == before:
            raise InputError(f"layers names block {after} twice; name each block once.")
        if after < before:
            raise InputError(
                f"layers names block {after} after block {before}; name blocks in increasing order."
            )
    return tuple(indices)


def layers_as_text(layers: str | int | Sequence[int]) -> str:
    """Write a count or a sequence of block numbers as `select_layers` reads it.

    Raises:
        InputError: `layers` is neither, nor a text.
    """
    if isinstance(layers, str):
        return layers
    if type(layers) is int:
        return str(layers)
    if isinstance(layers, Sequence) and all(type(i) is int and i >= 0 for i in layers):
        return ",".join(f"{index}-{index}" for index in layers)
    raise InputError(
        f"layers is {layers!r}; give a count, a text such as {_EXAMPLE}, or block numbers."
    )


def describe_layers(selection: Sequence[int]) -> str:
    """Write a selection as `select_layers` reads it, such as "0-11,20-23"."""
    ranges: list[list[int]] = []
    for index in selection:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{first}-{last}" for first, last in ranges)


def _first(count: int, num_hidden_layers: int) -> tuple[int, ...]:
    if count < 1:
        raise InputError(f"layers is {count}; a model needs at least 1 block.")
    if count > num_hidden_layers:
        raise InputError(f"layers is {count}, but the source has only {num_hidden_layers} blocks.")
    return tuple(range(count))


def _parse(text: str) -> list[int]:
    indices: list[int] = []
    for part in text.split(",") if text else []:
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InputError(
                f'layers is {text!r}; give a count such as "18" or blocks such as {_EXAMPLE}.'
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(
                f"layers has the range {part.strip()}, whose end lies before its start."
            )
        if last - first > 100_000:
            raise InputError(f"layers has the range {part.strip()}: no model has so many blocks.")
        indices.extend(range(first, last + 1))
    return indices
