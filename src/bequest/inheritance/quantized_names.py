"""The names of blocks in a quantization's configuration: renumbered, dropped or refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import read_json
from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import BlockNames, is_tower
from bequest.inheritance.prediction import is_prediction
from bequest.inheritance.quantized import FIELD

_PATTERN = re.compile(r"[*+?\[\](){}|^$\\]")
"""What makes an entry a pattern and not a name. A dot stands in both."""
_RULES = "dynamic"
"""GPTQModel's field of rules by module: its keys are patterns, "-:" before those that leave out."""
OLDER_FILES = ("quantize_config.json", "quant_config.json")
"""Where AutoGPTQ and AutoAWQ wrote the quantization; some engines read it before `config.json`."""


def cut_quantization(
    quantization: Mapping[str, Any],
    blocks: BlockNames,
    selection: Sequence[int],
    names: Iterable[str],
    *,
    model: str,
    file: str = "config.json",
) -> dict[str, Any]:
    """Return a quantization configuration in which the names of blocks follow a selection.

    In lists (`modules_to_not_convert`, `llm_int8_skip_modules`, `ignore`, `targets`, ...) plain
    names are renumbered, or go with their block. Patterns, also those that are the keys of
    `dynamic`, stay, and must mean the same modules.

    Args:
        quantization: the source's, from `quantization_of`.
        blocks: how the checkpoint names its blocks.
        selection: the blocks that are kept, in increasing order.
        names: the source's keys.
        model: the checkpoint's name, for messages.
        file: the file that states it, for messages.

    Raises:
        UnsupportedModelError: an entry names blocks in a way that cannot follow the selection.
    """
    modules = {place for name in names for place in _modules(name, blocks)}
    follower = _Follower(blocks, tuple(selection), tuple(sorted(modules)), model, file)
    within = f"{FIELD}." if file == "config.json" else ""
    return {key: follower.follow(value, within + key) for key, value in quantization.items()}


def _modules(name: str, blocks: BlockNames) -> Iterable[tuple[int, str]]:
    """The modules of a block that a key lies in, innermost last."""
    place = blocks.split(name)
    if place is None:
        return
    yield place[0], ""
    parts = place[1].split(".")
    for count in range(1, len(parts)):
        yield place[0], ".".join(parts[:count])


@dataclass(frozen=True)
class _Follower:
    blocks: BlockNames
    selection: tuple[int, ...]
    modules: tuple[tuple[int, str], ...]
    model: str
    file: str

    def follow(self, value: Any, field: str) -> Any:
        if isinstance(value, dict):
            for key in value:
                if field.rpartition(".")[2] == _RULES:
                    self._check_pattern(key, field, re.sub(r"^[+-]:", "", key))
                else:
                    self._refuse_number(key, field)
            return {key: self.follow(inner, f"{field}.{key}") for key, inner in value.items()}
        if isinstance(value, list):
            followed = [
                self._entry(item, field) if isinstance(item, str) else self.follow(item, field)
                for item in value
            ]
            return [item for item in followed if item is not None]
        if isinstance(value, str):
            self._refuse_number(value, field)
        return value

    @property
    def _list_name(self) -> str:
        return re.escape(self.blocks.prefix.rstrip(".").rpartition(".")[2])

    def _entry(self, entry: str, field: str) -> str | None:
        """A list's entry in the result; None for one that goes with its block."""
        if entry.startswith("re:") or _PATTERN.search(entry):
            self._check_pattern(entry, field)
            return entry
        if is_prediction(entry):
            return None
        found = re.search(rf"(?:^|\.){self._list_name}\.(\d+)(?=\.|$)", entry)
        if found is None:
            if entry[:1].isdigit():
                raise self._unknown(entry, field)
            return entry
        prefix, rest = entry[: found.start(1)], entry[found.end(1) :]
        if not self._is_decoder(prefix):
            if is_tower(prefix):
                return entry
            raise self._unknown(entry, field)
        number = int(found[1])
        if number not in self.selection:
            return None
        return f"{prefix}{self.selection.index(number)}{rest}"

    def _is_decoder(self, prefix: str) -> bool:
        own, other = f".{self.blocks.prefix}", f".{prefix}"
        nested = ".language_model."  # a checkpoint's keys and its modules order the two differently
        return own.endswith(other) or other.endswith(own) or (nested in own and nested in other)

    def _check_pattern(self, pattern: str, field: str, rule: str | None = None) -> None:
        """Refuse a pattern, or a rule's, that means other modules once blocks have other numbers."""
        prefix = self.blocks.prefix
        seen = False
        try:
            for number, rest in self.modules:
                path = f".{rest}" if rest else ""
                before = _matches(pattern, rule, f"{prefix}{number}{path}")
                seen |= before
                if number not in self.selection:
                    continue
                after = _matches(pattern, rule, f"{prefix}{self.selection.index(number)}{path}")
                if before != after:
                    raise self._unknown(pattern, field)
        except re.error as error:
            raise self._unknown(pattern, field) from error
        if not seen:
            self._refuse_number(pattern, field)

    def _refuse_number(self, text: Any, field: str) -> None:
        if isinstance(text, str) and re.search(rf"\b{self._list_name}\b\D*\d", text):
            raise self._unknown(text, field)

    def _unknown(self, entry: str, field: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.model}: {self.file} field {field!r} names blocks as {entry!r}, which cannot "
            "follow this selection; keep the first blocks, or cut the unquantized model."
        )


def _matches(pattern: str, rule: str | None, name: str) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    if rule is not None:  # GPTQModel's
        return re.match(rule, name) is not None
    if pattern.startswith("re:"):  # compressed-tensors
        return re.match(pattern.removeprefix("re:"), name) is not None
    return not should_convert_module(name, [pattern])


def cut_older_files(
    folder: Path,
    blocks: BlockNames,
    selection: Sequence[int],
    names: Iterable[str],
    *,
    model: str,
) -> dict[str, dict[str, Any]]:
    """Return those older quantization files of a folder that change with a selection, cut.

    Args:
        folder: the source's folder.
        blocks: how the checkpoint names its blocks.
        selection: the blocks that are kept, in increasing order.
        names: the source's keys.
        model: the checkpoint's name, for messages.

    Raises:
        CheckpointError: a file is damaged.
        UnsupportedModelError: an entry names blocks in a way that cannot follow the selection.
    """
    result = {}
    for file in OLDER_FILES:
        if (folder / file).is_file():
            stated = read_json(folder / file)
            cut = cut_quantization(stated, blocks, selection, names, model=model, file=file)
            if cut != stated:
                result[file] = cut
    return result
