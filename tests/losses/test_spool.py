from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.errors import InputError
from bequest.losses import token_losses as engine
from bequest.losses.spool import Spool, finished_batches, identity
from bequest.losses.token_losses import token_losses
from losses.test_token_losses import masked, sequences
from losses.tiny_models import tiny

HEADER = {"identity": "this"}
RECORDS = {3: np.array([1.5, np.nan, np.inf], np.float32), 0: np.array([0.25], np.float32)}


def write(folder: Path, rank: int = 0) -> Path:
    with Spool(folder, rank, HEADER) as spool:
        for batch, values in RECORDS.items():
            spool.append(batch, values)
    return folder / f"rank-{rank}.losses"


@given(keep=st.integers(0, 200))
def test_a_file_cut_anywhere_gives_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, keep: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    path = write(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    found = finished_batches(folder, HEADER)
    for batch, values in found.items():
        np.testing.assert_array_equal(values, RECORDS[batch])
    assert list(found) == list(RECORDS)[: len(found)]
    write(folder)  # taken up again behind the last whole record
    assert list(finished_batches(folder, HEADER)) == list(RECORDS)


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert list(finished_batches(tmp_path, HEADER)) == [3]


def test_another_models_spool_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="another model"):
        finished_batches(tmp_path, {"identity": "that"})


def test_identity_sees_model_plan_and_data() -> None:
    model, rows = tiny("llama"), sequences()
    same = identity(model, (1, 2), rows)
    assert identity(tiny("llama"), (1, 2), sequences()) == same
    others = [
        identity(model, (1, 3), rows),
        identity(model, (1, 2), masked(rows)),
        identity(model, (1, 2), [[1, 2], [3]]),
        identity(model, (1, 2), [[1], [2, 3]]),
        identity(tiny("llama", seed=1), (1, 2), rows),
    ]
    assert len({same, *others}) == 6


def test_a_killed_pass_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny("llama"), sequences()
    expected = token_losses(model, rows, tokens_per_batch=24)
    calls: list[int] = []
    compute = engine._batch_losses

    def dying(*args: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_batch_losses", dying)
    with pytest.raises(KeyboardInterrupt):
        token_losses(model, rows, tokens_per_batch=24, spool=tmp_path / "spool")
    total = len(engine.plan_batches([max(0, len(row) - 1) for row in rows], 24))
    found = token_losses(model, rows, tokens_per_batch=24, spool=tmp_path / "spool")
    assert len(calls) == total + 1  # two before the kill, one that died, the rest after
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    token_losses(model, rows, tokens_per_batch=24, spool=tmp_path / "spool")
    assert len(calls) == total + 1
    with pytest.raises(InputError, match="another model"):
        token_losses(tiny("llama", seed=1), rows, tokens_per_batch=24, spool=tmp_path / "spool")
