"""The averages of a run as it goes: updated at steps, applied to the model, saved and resumed.

averages = WeightAverages("run", lawa=LatestWeightAverage(window=5, spacing=100))
for step, batch in enumerate(batches, start=1):
    ...
    optimizer.step()
    averages.update(step, model, optimizer)
with averages.applied(model, "lawa"):
    evaluate(model)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from bequest.averaging.members import FOLDER, MemberStore
from bequest.averaging.model_tensors import is_sharded, tracked_tensors
from bequest.averaging.recipes import LatestWeightAverage, Recipe
from bequest.averaging.tensor_file import write_json
from bequest.averaging.trackers import RunningTracker, Tracker, WindowTracker
from bequest.errors import CheckpointError, InputError

_VERSION = 1


class WeightAverages:
    """Averages of a model while it is trained, in one process or many.

    Under FSDP2 and tensor parallelism each process averages its own shards and keeps files of its
    own. Under data parallelism, where all hold the same weights, the first process keeps the files
    and sends the average to the others when it is applied. In a distributed run every process calls
    every method, in the same order.

    Args:
        run: The run's folder: members are written to `RUN/averaging`, checkpoints lie directly in
            `RUN`.
        recipes: The averages by name, such as ``lawa=LatestWeightAverage(spacing=100)``.

    Raises:
        InputError: There is no recipe.
    """

    def __init__(self, run: str | Path, **recipes: Recipe) -> None:
        if not recipes:
            raise InputError("recipes is empty: name at least one average to keep.")
        self._run = Path(run)
        self._recipes = recipes
        self._placement: _Placement | None = None
        self._store: MemberStore
        self._trackers: dict[str, Tracker] = {}
        self._step = 0

    @property
    def names(self) -> list[str]:
        """The averages that there are by now."""
        return [name for name, tracker in self._trackers.items() if tracker.ready]

    @property
    def step(self) -> int:
        """The last step that was seen, 0 before the first."""
        return self._step

    def update(self, step: int, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Take in the weights after an optimizer step; cheap where no average is due.

        Args:
            step: How many optimizer steps have been done. The same step again does nothing.
            model: The model that is trained.
            optimizer: What changes its weights next. On a GPU its next step then waits until a
                snapshot is copied; without it everything that follows waits. Before anything else
                than its step writes to the weights, call `wait_for_copies`.

        Raises:
            InputError: The step lies before one already seen, or the model cannot be averaged.
            StorageError: A member could not be written.
        """
        self._place(model)
        if step < self._step:
            raise InputError(f"step is {step}, after step {self._step}: steps only go up.")
        if step == self._step:
            return
        self._step = step
        due = [name for name, recipe in self._recipes.items() if recipe.due(step)]
        if not due:
            return
        tensors = tracked_tensors(model)
        for name in due:
            self._trackers[name].observe(step, tensors, optimizer)
        if any(self._trackers[name].members for name in due):
            self._collect()

    def wait_for_copies(self) -> None:
        """Let later changes of the weights run after a snapshot that a GPU is still copying.

        Call it before you change the weights other than by the optimizer's step: load a checkpoint,
        swap or blend. It holds up the device only, not the program.
        """
        if self._placement is not None:
            self._store.order_after_copies()

    def average(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Give an average tensor by tensor, float32 or wider; of sharded tensors the local shards.

        EMA and SWA give their live tensors: copy what you change. In a replicated run LAWA's files
        are the first process's, so only that one may ask.

        Raises:
            InputError: There is no such average, or not yet.
        """
        return self._tracker(name).average({})

    @contextmanager
    def applied(self, model: nn.Module, name: str) -> Iterator[None]:
        """Let the model have the average's weights inside a `with`, and its own again after it.

        The model's own weights wait in host memory. Gradients and optimizer state are not touched.

        Raises:
            InputError: There is no such average, or not yet.
        """
        self._tracker(name)
        self._store.order_after_copies()
        own = {key: tensor.to("cpu", copy=True) for key, tensor in tracked_tensors(model).items()}
        try:
            self.apply(model, name)
            yield
        finally:
            tensors = tracked_tensors(model)
            for key, tensor in own.items():
                tensors[key].copy_(tensor)

    def apply(self, model: nn.Module, name: str) -> None:
        """Give the model the average's weights for good, rounded to its dtypes.

        Raises:
            InputError: There is no such average, or not yet.
        """
        placement = self._place(model)
        tracker = self._tracker(name)
        self._store.order_after_copies()
        tensors = tracked_tensors(model)
        if placement.writes:
            dtypes = {key: tensor.dtype for key, tensor in tensors.items()}
            for key, value in tracker.average(dtypes):
                tensors[key].copy_(value)
        if placement.replicated:
            for tensor in tensors.values():
                dist.broadcast(tensor, src=0)

    def save(self, checkpoint: str | Path) -> None:
        """Write the averages' state into a checkpoint; call it before the checkpoint is complete.

        LAWA's members are named, not copied, so the checkpoint must lie in the run's folder. When
        the checkpoint is deleted, its members go at the next update or save.

        Raises:
            InputError: No model has been seen yet, or the checkpoint lies elsewhere.
            StorageError: A file could not be written.
        """
        checkpoint = Path(checkpoint)
        if self._placement is None:
            raise InputError("checkpoint cannot be saved: update has not seen a model yet.")
        if checkpoint.resolve().parent != self._run.resolve():
            raise InputError(
                f"checkpoint is {checkpoint}: it must lie directly in the run's folder "
                f"{self._run}, whose members it names."
            )
        if self._placement.writes:
            (checkpoint / FOLDER).mkdir(parents=True, exist_ok=True)
        self._store.wait()
        averages = {}
        for name, tracker in self._trackers.items():
            file = self._shadow(checkpoint, name) if self._placement.writes else None
            averages[name] = {"recipe": self._described(name), **tracker.save(file)}
        if self._placement.writes:
            state = {"version": _VERSION, "step": self._step, "averages": averages}
            write_json(self._state(checkpoint), state)
        self._collect()
        if self._placement.world > 1:
            # The checkpoint must not be completed by one process before all have saved.
            dist.barrier()

    def load(self, checkpoint: str | Path, model: nn.Module) -> None:
        """Take up the state saved in a checkpoint, of this run or another, and go on from there.

        An average that the checkpoint does not know starts now.

        Raises:
            CheckpointError: The state or a member is missing or damaged, or was saved with other
                settings or by another number of sharded processes.
        """
        checkpoint = Path(checkpoint)
        self._placement = None
        self._place(model)
        state = self._read_state(checkpoint)
        tensors = tracked_tensors(model)
        for name, tracker in self._trackers.items():
            saved = state["averages"].get(name)
            if saved is None:
                continue
            if saved["recipe"] != self._described(name):
                raise CheckpointError(
                    f"{checkpoint} was saved with {name} = {saved['recipe']}, but now it is "
                    f"{self._described(name)}: resume with the same settings or under another name."
                )
            tracker.load(saved, self._shadow(checkpoint, name), checkpoint.parent, tensors)
        self._step = state["step"]

    def finish(self) -> None:
        """Wait until every member is on the disk, and delete those that nothing names any more.

        Call it when training ends; the averages can still be used, and updated again.

        Raises:
            StorageError: A member could not be written.
        """
        if self._placement is not None:
            self._store.wait()
            self._collect()

    def _place(self, model: nn.Module) -> _Placement:
        if self._placement is None:
            self._placement = _Placement.of(model)
            self._store = MemberStore(self._run, self._placement.suffix, self._placement.writes)
            self._trackers = {
                name: WindowTracker(recipe, self._store)
                if isinstance(recipe, LatestWeightAverage)
                else RunningTracker(recipe)
                for name, recipe in self._recipes.items()
            }
        return self._placement

    def _tracker(self, name: str) -> Tracker:
        if name not in self.names:
            there = ", ".join(self.names) or "none yet"
            raise InputError(f"name is {name!r}: the averages that can be used are {there}.")
        return self._trackers[name]

    def _collect(self) -> None:
        self._store.collect(m for tracker in self._trackers.values() for m in tracker.members)

    def _described(self, name: str) -> dict[str, Any]:
        recipe = self._recipes[name]
        # Through JSON, so that what was saved and what is compared with it look alike.
        described: dict[str, Any] = json.loads(
            json.dumps({"kind": type(recipe).__name__, **asdict(recipe)})
        )
        return described

    def _state(self, checkpoint: Path) -> Path:
        assert self._placement is not None
        return checkpoint / FOLDER / f"state{self._placement.suffix}.json"

    def _shadow(self, checkpoint: Path, name: str) -> Path:
        assert self._placement is not None
        return checkpoint / FOLDER / f"{name}-shadow{self._placement.suffix}.safetensors"

    def _read_state(self, checkpoint: Path) -> dict[str, Any]:
        try:
            text = self._state(checkpoint).read_text(encoding="utf-8")
            state: dict[str, Any] = json.loads(text)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._state(checkpoint)} cannot be read ({error}): the checkpoint was saved "
                "without averages or by another number of sharded processes."
            ) from error
        if state["version"] != _VERSION:
            raise CheckpointError(
                f"{self._state(checkpoint)} has the version {state['version']}, this bequest "
                f"reads version {_VERSION}: resume with the version that saved it."
            )
        return state


@dataclass(frozen=True, kw_only=True)
class _Placement:
    """Which part of the model this process has, and who writes."""

    world: int
    suffix: str
    writes: bool
    replicated: bool

    @classmethod
    def of(cls, model: nn.Module) -> _Placement:
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world == 1:
            return cls(world=1, suffix="", writes=True, replicated=False)
        rank = dist.get_rank()
        mine = [(key, tuple(value.shape)) for key, value in tracked_tensors(model).items()]
        everyone: list[Any] = [None] * world
        dist.all_gather_object(everyone, (is_sharded(model), mine))
        # Pipeline stages differ without being DTensors: they too keep files of their own.
        if everyone[0][0] or any(other != everyone[0] for other in everyone):
            suffix = f"-rank-{rank:05d}-of-{world:05d}"
            return cls(world=world, suffix=suffix, writes=True, replicated=False)
        return cls(world=world, suffix="", writes=rank == 0, replicated=True)
