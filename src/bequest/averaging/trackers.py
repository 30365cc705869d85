"""What each kind of average does at a step: LAWA keeps members, EMA and SWA a running mean."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from bequest.averaging.accumulate import Accumulator
from bequest.averaging.members import Member, MemberStore
from bequest.averaging.model_tensors import entry_of, from_numpy, widened
from bequest.averaging.recipes import (
    ExponentialMovingAverage,
    LatestWeightAverage,
    StochasticWeightAverage,
)
from bequest.averaging.tensor_file import Array, map_tensors, write_tensors
from bequest.errors import CheckpointError, InputError

DTypes = Mapping[str, torch.dtype]

_BUCKET_BYTES = 64 << 20
"""How much of a half-precision model is widened at a time to update its float32 shadow."""

_OUT = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}


class Tracker(Protocol):
    """One average of a run."""

    def observe(self, step: int, tensors: dict[str, Tensor], optimizer: Optimizer | None) -> None:
        """Take in the model's tensors at a step at which the average is due."""

    @property
    def ready(self) -> bool:
        """Whether there is an average yet."""

    @property
    def members(self) -> list[Member]:
        """The files that the average is made of; none where it is kept in memory."""

    def average(self, dtypes: DTypes) -> Iterator[tuple[str, Tensor]]:
        """Give the average tensor by tensor, in the dtypes asked for, else as it is kept."""

    def save(self, file: Path | None) -> dict[str, Any]:
        """Return what JSON can hold of the state and write the rest to `file` unless None."""

    def load(
        self, state: dict[str, Any], file: Path, run: Path, tensors: dict[str, Tensor]
    ) -> None:
        """Take up the state that `save` left in a checkpoint of `run`, for a model's tensors."""


class WindowTracker:
    """LAWA: the latest members of a store, averaged from their files when asked."""

    def __init__(self, recipe: LatestWeightAverage, store: MemberStore) -> None:
        self._recipe = recipe
        self._mixture = recipe.mixture
        self._store = store
        self._window: list[Member] = []

    @property
    def members(self) -> list[Member]:
        """The window's members, oldest first."""
        return self._window

    @property
    def ready(self) -> bool:
        """Whether the coefficients fit the members there are."""
        return bool(self._window) and self._mixture.fits(len(self._window))

    def observe(self, step: int, tensors: dict[str, Tensor], optimizer: Optimizer | None) -> None:
        """Add a member and let the oldest go."""
        self._mixture.check_names(tensors)
        member = self._store.write(step, tensors, optimizer)
        self._window = [*self._window, member][-self._recipe.window :]

    def average(self, dtypes: DTypes) -> Iterator[tuple[str, Tensor]]:
        """Give the average by the kernel that `bequest average` uses, one tensor in memory."""
        files = [self._store.read(member.step) for member in self._window]
        newest, accumulator = files[-1], Accumulator()
        for older, member in zip(files, self._window, strict=True):
            if differing := sorted(older.keys() ^ newest.keys()):
                raise InputError(
                    f"model trained other tensors at step {member.step} than at step "
                    f"{self._window[-1].step} (first difference: {differing[0]}): averages need "
                    "the same trainable tensors throughout."
                )
        for name, values in newest.items():
            if values.dtype.kind != "f":
                yield name, from_numpy(np.array(values))
                continue
            dtype = dtypes.get(name, torch.float32 if values.itemsize == 4 else torch.float64)
            out: Array = np.empty(values.size, _OUT.get(dtype, np.uint16))
            accumulator.average(
                [file[name].reshape(-1) for file in files],
                self._mixture.vector(name, len(files)).tolist(),
                out,
            )
            yield name, from_numpy(out).view(values.shape)

    def save(self, file: Path | None) -> dict[str, Any]:
        """Name the members; their files are written already."""
        return {"members": [{"step": m.step, "crc32": m.checksum.result()} for m in self._window]}

    def load(
        self, state: dict[str, Any], file: Path, run: Path, tensors: dict[str, Tensor]
    ) -> None:
        """Take over the members that the checkpoint names."""
        self._window = [self._store.adopt(run, m["step"], m["crc32"]) for m in state["members"]]


class RunningTracker:
    """EMA and SWA: ``shadow += (1 - decay) / mass * (weights - shadow)`` on the model's device.

    ``mass`` is the total weight of what has been taken in, so that the shadow is the bias-corrected
    average at any time. It is float32, or wider if the weights are: in bfloat16 an average with a
    decay near one would stop to move.
    """

    def __init__(self, recipe: ExponentialMovingAverage | StochasticWeightAverage) -> None:
        self._recipe = recipe
        self._updates = 0
        self._mass = 0.0
        self._shadow: dict[str, Tensor] = {}

    @property
    def members(self) -> list[Member]:
        """None: the shadow stays in memory."""
        return []

    @property
    def ready(self) -> bool:
        """Whether it has been updated."""
        return self._updates > 0

    def observe(self, step: int, tensors: dict[str, Tensor], optimizer: Optimizer | None) -> None:
        """Update the shadow, in place and without waiting for the device."""
        decay = self._recipe.decay(self._updates)
        self._mass = decay * self._mass + (1 - decay)
        if self._updates == 0:
            self._shadow = {n: t.to(widened(t.dtype), copy=True) for n, t in tensors.items()}
        else:
            self._check_names(self._shadow, tensors)
            self._lerp(tensors, (1 - decay) / self._mass)
        self._updates += 1

    def average(self, dtypes: DTypes) -> Iterator[tuple[str, Tensor]]:
        """Give the shadow; where no other dtype is asked for it is the live tensor, not a copy."""
        for name, shadow in self._shadow.items():
            yield name, shadow.to(dtypes.get(name, shadow.dtype))

    def save(self, file: Path | None) -> dict[str, Any]:
        """Write the shadow."""
        if file is not None and self.ready:
            write_tensors(file, {name: entry_of(t, t.dtype) for name, t in self._shadow.items()})
        return {"updates": self._updates, "mass": self._mass}

    def load(
        self, state: dict[str, Any], file: Path, run: Path, tensors: dict[str, Tensor]
    ) -> None:
        """Read the shadow to where the model's tensors are."""
        self._updates, self._mass = state["updates"], state["mass"]
        self._shadow = {}
        if self.ready:
            arrays = map_tensors(file)
            self._check_names(arrays, tensors)
            for name, tensor in tensors.items():
                value = from_numpy(np.array(arrays[name]))
                if value.shape != tensor.shape:
                    raise CheckpointError(
                        f"{file} has {name} with the shape {tuple(value.shape)}, the model has "
                        f"{tuple(tensor.shape)}: resume with the model that was trained."
                    )
                self._shadow[name] = value.to(tensor.device)

    def _lerp(self, tensors: dict[str, Tensor], weight: float) -> None:
        bucket: list[str] = []
        size = 0
        for name, tensor in tensors.items():
            shadow = self._shadow[name]
            if not tensor.is_floating_point():
                shadow.copy_(tensor)  # Counters and masks: the newest.
                continue
            bucket.append(name)
            size += 0 if tensor.dtype == shadow.dtype else shadow.nbytes
            if size >= _BUCKET_BYTES:
                self._lerp_bucket(bucket, tensors, weight)
                bucket, size = [], 0
        self._lerp_bucket(bucket, tensors, weight)

    def _lerp_bucket(self, names: list[str], tensors: dict[str, Tensor], weight: float) -> None:
        if names:
            shadows = [self._shadow[name] for name in names]
            values = [tensors[name].to(self._shadow[name].dtype) for name in names]
            torch._foreach_lerp_(shadows, values, weight)

    def _check_names(self, kept: Collection[str], tensors: dict[str, Tensor]) -> None:
        if differing := sorted(set(kept) ^ tensors.keys()):
            raise InputError(
                f"model trains other tensors than the average was made of (first difference: "
                f"{differing[0]}): averages need the same trainable tensors throughout."
            )
