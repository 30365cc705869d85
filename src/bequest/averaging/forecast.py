"""What a request for several averages would read and write, told before a byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.averaging.candidates import Candidate
from bequest.results import Section


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Several averages that are planned, from headers and configurations alone."""

    target: Path
    """The folder that would appear, or be written into."""
    candidates: tuple[Candidate, ...]
    """The averages."""
    written: int
    """Bytes of weights that would stay."""
    temporary: int
    """Bytes of weights that would be written for the time of their evaluation; where the disk has
    less room, in parts."""
    notes: tuple[str, ...]
    """Sentences that the user must read."""

    @property
    def bytes_read(self) -> int:
        """Bytes of all members, each read once."""
        members = {id(m): m for c in self.candidates for m in c.plan.members}
        return sum(t.num_bytes for m in members.values() for t in m.weights.tensors.values())

    def sections(self) -> list[Section]:
        """Return the table of the averages, and that of what they take."""
        steps = {m.step for c in self.candidates for m in c.plan.members}
        made = [
            [c.name, ", ".join(str(m.step) for m in c.plan.members), c.plan.num_bytes]
            for c in self.candidates
        ]
        takes = [
            ["averages", len(self.candidates)],
            ["checkpoints to read", len(steps)],
            ["bytes to read", self.bytes_read],
            ["bytes to write", self.written],
            ["bytes for the time of an evaluation", self.temporary],
        ]
        return [
            _table("averages", ["average", "members", "bytes of weights"], made),
            _table("what it takes", ["", "result"], takes),
        ]


def _table(title: str, columns: list[str], rows: Sequence[Sequence[object]]) -> Section:
    data = {"columns": columns, "rows": [list(row) for row in rows]}
    return Section(title=title, type="table", data=data)
