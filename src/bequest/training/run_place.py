"""Where a run and its result may lie: apart from one another, and from all that the run reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bequest.checkpoints.publish import overlap
from bequest.errors import InputError
from bequest.training.run_folder import earlier_run

CONTENTS = ".contents.json"
"""Where a run remembers its model's hashes. Hidden: it is no part of what the run made."""


def check_place(
    run: Path,
    *,
    reads: Mapping[str, str | Path | None],
    out: Path | None = None,
    field: str = "run_dir",
) -> None:
    """Refuse folders that a run cannot write without touching what it reads; nothing is written.

    Args:
        run: the run's folder; it need not exist.
        reads: what the run reads, by the fields that name it; hub ids and None are passed over.
        out: where the finished model goes.
        field: what the user calls `run`.

    Raises:
        InputError: `run` is a file or holds something else, or two of `run`, `out` and what is
            read overlap: one of them is the other, or lies within it.
    """
    earlier_run(run, field)
    given = [(name, value) for name, value in reads.items() if isinstance(value, str | Path)]
    others = [(name, Path(value).expanduser()) for name, value in given]
    others = [(name, path) for name, path in others if path.exists()]
    results = [] if out is None else [("out", out)]
    _require_apart((field, run), [*results, *others])
    for result in results:
        _require_apart(result, others)


def _require_apart(written: tuple[str, Path], others: Sequence[tuple[str, Path]]) -> None:
    field, folder = written
    for name, path in others:
        if overlap(folder, path):
            raise InputError(f"{field} {folder} overlaps {name} {path}; name a folder beside it")
