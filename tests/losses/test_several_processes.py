from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.losses import token_losses as engine
from bequest.losses.processes import share_of
from bequest.losses.token_losses import token_losses
from losses.processes_worker import BUDGET
from losses.test_token_losses import masked, sequences
from losses.tiny_models import tiny


@given(st.integers(0, 40), st.integers(1, 7))
def test_everything_is_dealt_out_once(count: int, size: int) -> None:
    items = list(range(count))
    shares = [share_of(items, rank, size, in_step=False) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == items
    in_step = [share_of(items, rank, size, in_step=True) for rank in range(size)]
    assert len({len(share) for share in in_step}) == 1
    assert all(long[: len(share)] == share for share, long in zip(shares, in_step, strict=True))


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sequences()
    labels = masked(rows)
    # One process dies after two batches; the two processes take its spool up.
    with monkeypatch.context() as patch:
        compute, calls = engine._batch_losses, []

        def dying(*args: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return compute(*args)  # type: ignore[arg-type]

        patch.setattr(engine, "_batch_losses", dying)
        with pytest.raises(KeyboardInterrupt):
            token_losses(
                tiny("gemma2"), rows, labels, tokens_per_batch=BUDGET, spool=tmp_path / "gemma2"
            )
    worker = Path(__file__).with_name("processes_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = worker.parents[2]
    path = os.pathsep.join([str(root / "src"), str(root / "tests")])
    run = subprocess.run(
        [*command, str(worker), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    first, second = (dict(np.load(tmp_path / f"rank-{rank}.npz")) for rank in (0, 1))

    alone = {
        "plain": token_losses(tiny("llama"), rows, labels, tokens_per_batch=BUDGET),
        "ddp": token_losses(tiny("llama-tied"), rows, tokens_per_batch=BUDGET),
        "resumed": token_losses(tiny("gemma2"), rows, labels, tokens_per_batch=BUDGET),
    }
    alone |= {"spooled": alone["plain"], "fsdp-llama": alone["plain"]}
    alone["fsdp-gemma2"] = alone["resumed"]
    alone["fsdp-phi-bias"] = token_losses(tiny("phi-bias"), rows, labels, tokens_per_batch=BUDGET)
    assert set(first) == set(alone)
    for name, losses in alone.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], np.concatenate(losses), rtol=1e-6, atol=1e-6)

    # And one process takes up what two have left, without running the model at all.
    monkeypatch.setattr(engine, "_batch_losses", None)
    again = token_losses(
        tiny("llama"), rows, labels, tokens_per_batch=BUDGET, spool=tmp_path / "llama"
    )
    np.testing.assert_array_equal(np.concatenate(again), first["spooled"])
