"""The comparison of runs item by item, with seeds as the outer level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.flow.data import SHARES
from experiments.flow.report import PROBES, Run, all_items, change, measures


def run_of(seed: int, shift: float, noise: float = 0.0) -> Run:
    """Ten items a group, of ten tokens or bytes each."""
    generator = np.random.default_rng(seed)
    groups = np.repeat([*SHARES, *PROBES], 10)
    nats = 20.0 + generator.normal(size=len(groups)) * 3
    nats += 10 * shift + noise * np.random.default_rng(seed + 100).normal(size=len(groups))
    sizes = np.where(np.isin(groups, ["brown", "python docs"]), 10 * math.log(2), 10.0)
    return Run(method="m", rate=1.0, seed=seed, groups=groups, nats=nats, sizes=sizes, moved=None)


def test_target_is_the_mean_of_its_tasks_by_their_shares() -> None:
    run = run_of(0, 0.0)
    values = {
        task: run.nats[run.groups == task].sum() / run.sizes[run.groups == task].sum()
        for task in SHARES
    }
    wanted = sum(values[task] * share for task, share in SHARES.items()) / 8
    assert measures(run, all_items(run))["target"] == pytest.approx(wanted)


def test_a_shift_of_every_item_has_no_uncertainty() -> None:
    before, after = [run_of(0, 0.0), run_of(1, 0.0)], [run_of(0, 0.5), run_of(1, 0.5)]
    found = change(after, before, np.random.default_rng(0))
    assert found["facts"] == pytest.approx((0.5, 0.5, 0.5))
    assert found["brown"] == pytest.approx((0.5 / math.log(2),) * 3)


def test_an_interval_holds_the_mean_and_spreads_with_the_noise() -> None:
    before = [run_of(seed, 0.0) for seed in range(3)]
    after = [run_of(seed, 0.5, noise=2.0) for seed in range(3)]
    for middle, low, high in change(after, before, np.random.default_rng(0)).values():
        assert low < middle < high
        assert 0.01 < high - low < 1.0
