"""Draw chosen tensors from the model's own initialization instead of inheriting them.

The values are written into the result: no key is left out for a loader to fill in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bequest.checkpoints import dtypes
from bequest.checkpoints.shards import PlannedTensor
from bequest.errors import InputError, UnsupportedModelError
from bequest.inheritance.config_cut import read_config
from bequest.inheritance.identity import build_on_meta, find_block_modules

if TYPE_CHECKING:
    import torch
    from torch import nn


def reinitialized(
    planned: Sequence[PlannedTensor],
    names: Sequence[str],
    config: Mapping[str, Any],
    seed: int,
    *,
    prefix: str,
) -> tuple[list[PlannedTensor], tuple[str, ...]]:
    """Replace the sources of the named tensors by draws.

    Args:
        planned: the result's tensors.
        names: keys of tensors, or of modules (all tensors whose keys start with them).
        config: the result's `config.json`.
        seed: decides the draws, with the name of each module; not with what else is drawn.
        prefix: what stands before a block's number in the keys.

    Returns:
        The tensors, and the keys that are drawn.

    Raises:
        InputError: a name matches no tensor, or one that is tied to another.
        UnsupportedModelError: a tensor is no parameter of the model under its key.
    """
    keys = [tensor.name for tensor in planned]
    drawn: set[str] = set()
    for name in names:
        matches = [key for key in keys if key == name or key.startswith(f"{name}.")]
        if not matches:
            raise InputError(
                f"reinit names {name!r}, which is no tensor or module of the result; its keys are "
                f"such as {', '.join(keys[:2])} (a head tied to the embedding has none of its own)."
            )
        drawn.update(matches)
    initializer = _Initializer(read_config(config, model="the result"), seed, prefix)
    dropped = initializer.check(drawn, set(keys))
    result = []
    for tensor in planned:
        if tensor.name in drawn:
            tensor = replace(tensor, source=initializer.values_of(tensor))
        if tensor.name not in dropped:
            result.append(tensor)
    return result, tuple(key for key in keys if key in drawn)


class _Initializer:
    """Builds the result on the meta device and gives memory to one module at a time."""

    def __init__(self, config: Any, seed: int, prefix: str) -> None:
        self._model = build_on_meta(config)
        self._seed = seed
        self._blocks = find_block_modules(self._model, prefix)
        self._base = getattr(self._model, "base_model_prefix", "")
        self._held: tuple[str, dict[str, torch.Tensor]] = ("", {})

    def check(self, drawn: set[str], keys: set[str]) -> set[str]:
        """Refuse what cannot be drawn; return keys that tying makes superfluous."""
        dropped: set[str] = set()
        tied: Mapping[str, str] = getattr(self._model, "all_tied_weights_keys", {})
        by_parameter = {self._parameter_name(key): key for key in drawn}
        for copy, original in tied.items():
            if copy in by_parameter:
                raise InputError(
                    f"reinit names {by_parameter[copy]!r}, which is tied to {original!r}; name that."
                )
            if original in by_parameter:
                # Some checkpoints store both ends of a tie: the copy would hold the old values.
                dropped.update(key for key in keys if self._candidate(key) == copy)
        return dropped

    def values_of(self, tensor: PlannedTensor) -> Any:
        """Return a maker of a tensor's new values in its dtype in the result."""
        name = self._parameter_name(tensor.name)
        if tuple(self._model.state_dict()[name].shape) != tensor.shape:
            raise UnsupportedModelError(
                f"reinit: {tensor.name!r} is stored in another shape than the model's parameter; "
                "bequest cannot draw it."
            )

        def values() -> npt.NDArray[np.generic]:
            drawn: npt.NDArray[np.generic] = self._draw(name).numpy()
            return dtypes.convert(drawn, "F32", tensor.dtype)

        return values

    def _candidate(self, key: str) -> str | None:
        state = self._model.state_dict()
        return next((name for name in (key, f"{self._base}.{key}") if name in state), None)

    def _parameter_name(self, key: str) -> str:
        name = self._candidate(key)
        if name is None:
            raise UnsupportedModelError(
                f"reinit: {key!r} is no parameter of {type(self._model).__name__} under that name; "
                "bequest cannot draw it."
            )
        return name

    def _draw(self, name: str) -> torch.Tensor:
        import torch

        path, module = self._home(name)
        if self._held[0] != path:
            digest = hashlib.sha256(f"{self._seed}:{path}".encode()).digest()
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
                module.to_empty(device="cpu")
                module.apply(self._model._init_weights)  # type: ignore[arg-type]
            held = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
            self._held = (path, held)
            module.to("meta")
        return self._held[1][name.removeprefix(f"{path}.")]

    def _home(self, name: str) -> tuple[str, nn.Module]:
        """Return the module to initialize as one: a whole block, or else a parameter's owner.

        Some models scale a block's inner weights from the block's own modules (GPT-2's `c_proj`).
        """
        for path, module in self._model.named_modules():
            if name.startswith(f"{path}.") and any(module is block for block in self._blocks):
                return path, module
        path = name.rpartition(".")[0]
        return path, self._model.get_submodule(path)
