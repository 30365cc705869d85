"""LAWA's members as files: `RUN/averaging/step-N.safetensors`, written once, named by checkpoints.

A checkpoint `RUN/checkpoint-N` holds `averaging/state.json`, which names its members and their
checksums; a member that neither a window nor a checkpoint names is deleted. Under sharding each
process has files of its own, told apart by a suffix.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.optim import Optimizer

from bequest.averaging.model_tensors import entry_of, widened
from bequest.averaging.snapshot import HostCopier
from bequest.averaging.tensor_file import Array, file_checksum, map_tensors, write_tensors
from bequest.errors import CheckpointError

FOLDER = "averaging"
"""Name of the folder of members in a run, and of the averages' state in a checkpoint."""


@dataclass(frozen=True)
class Member:
    """One snapshot."""

    step: int
    """The step after which it was taken."""

    checksum: Future[int]
    """CRC-32 of its file, known once the file is written."""


class MemberStore:
    """Writes, reads and deletes the members of one process.

    Args:
        run: The run's folder.
        suffix: What tells this process's files from those of others; empty if it is alone.
        writes: Whether this process writes; the others of a replicated run only keep count.
    """

    def __init__(self, run: Path, suffix: str, writes: bool) -> None:
        self._run = run
        self._suffix = suffix
        self._writes = writes
        self._copier = HostCopier()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="bequest-members")
        self._latest: Member | None = None
        if writes:
            (run / FOLDER).mkdir(parents=True, exist_ok=True)
            for partial in (run / FOLDER).glob(f".step-*{suffix}.safetensors.partial"):
                partial.unlink()

    def write(self, step: int, tensors: dict[str, Tensor], optimizer: Optimizer | None) -> Member:
        """Snapshot the tensors and write them in the background, as float32 where they are float.

        Averages that are due at the same step share the member.

        Raises:
            StorageError: The member before this one could not be written.
        """
        if self._latest is not None and self._latest.step == step:
            return self._latest
        self.wait()
        if self._writes:
            self._copier.start(tensors, optimizer)
            self._latest = Member(step, self._writer.submit(self._write_file, step))
        else:
            self._latest = Member(step, _known(0))
        return self._latest

    def wait(self) -> None:
        """Return when every member's file is on the disk.

        Raises:
            StorageError: One could not be written.
        """
        if self._latest is not None:
            self._latest.checksum.result()

    def order_after_copies(self) -> None:
        """Let later changes of the weights run after a snapshot that is still being copied."""
        self._copier.order_after_copies()

    def read(self, step: int) -> dict[str, Array]:
        """Return a member's tensors, mapped from its file."""
        self.wait()
        return map_tensors(self._path(self._run, step))

    def adopt(self, run: Path, step: int, checksum: int) -> Member:
        """Take over a member that a checkpoint in `run` names.

        Raises:
            CheckpointError: It is missing, or not the one that the checkpoint was saved with.
        """
        member = Member(step, _known(checksum))
        if not self._writes:
            return member
        source, target = self._path(run, step), self._path(self._run, step)
        if file_checksum(source) != checksum:
            raise CheckpointError(
                f"{source} has changed since the checkpoint that names it was saved: the run went "
                "on from an older checkpoint; resume from a newer one or from that older one."
            )
        if not target.exists() or not target.samefile(source):
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copy2(source, target)
        return member

    def collect(self, windows: Iterable[Member]) -> None:
        """Delete the members that are in none of the windows and that no checkpoint names."""
        if not self._writes:
            return
        named = {self._path(self._run, member.step).name for member in windows}
        for state in self._run.glob(f"*/{FOLDER}/state{self._suffix}.json"):
            try:
                averages = json.loads(state.read_text(encoding="utf-8"))["averages"].values()
            except FileNotFoundError:
                continue  # The trainer is deleting that checkpoint.
            for member in (m for average in averages for m in average.get("members", ())):
                named.add(self._path(self._run, member["step"]).name)
        for file in (self._run / FOLDER).glob(f"step-*{self._suffix}.safetensors"):
            if file.name not in named and self._is_own(file):
                file.unlink(missing_ok=True)

    def _is_own(self, file: Path) -> bool:
        step = file.name.removeprefix("step-").removesuffix(f"{self._suffix}.safetensors")
        return step.isdigit()

    def _path(self, run: Path, step: int) -> Path:
        return run / FOLDER / f"step-{step}{self._suffix}.safetensors"

    def _write_file(self, step: int) -> int:
        copies = self._copier.finish()
        entries = {name: entry_of(copy, widened(copy.dtype)) for name, copy in copies.items()}
        return write_tensors(self._path(self._run, step), entries)


def _known(checksum: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(checksum)
    return future
