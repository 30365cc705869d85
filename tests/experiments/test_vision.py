"""The image experiments: every cell is a run that `bequest finetune` takes; the table is right."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bequest.training.vision_config import check_images
from experiments import vision, vision_page


@pytest.mark.parametrize("method", list(vision.METHODS))
@pytest.mark.parametrize("target", list(vision.TARGETS))
def test_every_cell_is_a_run(target: str, method: str) -> None:
    settings = vision.Settings()
    config = vision.config_of(target, 2, method, settings)
    check_images(config)
    assert config.method.l2 == (settings.l2 if "L2" in method else 0)
    assert config.method.wise_ft == (settings.wise_ft if "WiSE" in method else None)
    assert config.method.scheme == (
        None if method == "probe" else "flow" if "FLOW" in method else "uniform"
    )


def test_seeds_of_mnist_train_on_other_digits() -> None:
    splits = [vision.config_of("mnist", s, "FLOW", vision.Settings()).data.split for s in (0, 1)]
    assert splits == ["train[0:600]", "train[600:1200]"]


def test_the_groups_are_ten_and_disjoint() -> None:
    groups = json.loads(vision.GROUPS.read_text())
    assert len(groups) == 10
    flat = [number for group in groups.values() for number in group]
    assert len(flat) == len(set(flat)) and 0 <= min(flat) <= max(flat) < 1000
    assert groups["cat"] == [281, 282, 283, 284, 285]
    assert groups["dog"] == list(range(151, 269))


def write_cells(cache: Path, seeds: tuple[int, ...], rates: dict[str, tuple[float, float]]) -> None:
    generator = np.random.default_rng(0)
    for seed in seeds:
        for method, (target, retained) in rates.items():
            cell = {
                "settings": asdict(vision.Settings()),
                "cell": ["mnist", seed, method],
                "target": (generator.random(400) < target).astype(int).tolist(),
                "retained": (generator.random(600) < retained).astype(int).tolist(),
            }
            if method == "probe":
                cell["hard"] = [1] * 40 + [0] * 360
            (cache / f"{seed}-{method.replace(' ', '')}.json").write_text(json.dumps(cell))


def test_the_table_holds_the_rates(tmp_path: Path) -> None:
    rates = {name: (0.9 - 0.05 * i, 0.2 + 0.1 * i) for i, name in enumerate(vision.METHODS)}
    write_cells(tmp_path, (0, 1), rates)
    write_cells(tmp_path, (2,), {"probe": (0.5, 0.5)})  # A seed that is not done is left out.
    cells = vision_page.read_cells(tmp_path, vision.Settings())
    seeds = vision_page.complete_seeds(cells)
    assert seeds == {"mnist": [0, 1]}
    for method, (target, retained) in rates.items():
        found = vision_page.measured(cells, seeds, method)
        for name, wanted in (("target", target), ("retained", retained)):
            mean, low, high = found[name]
            own = [np.mean(cells["mnist", seed, method][name]) for seed in (0, 1)]
            assert mean == pytest.approx(np.mean(own))
            assert low < mean < high and low - 0.05 < wanted < high + 0.05
        assert found["mean"][0] == pytest.approx((found["target"][0] + found["retained"][0]) / 2)
        hard = [np.mean(cells["mnist", seed, method]["target"][:40]) for seed in (0, 1)]
        assert found["hard"][0] == pytest.approx(np.mean(hard))
    assert len(vision_page.table(cells, seeds)) == 2 + len(rates)


def test_cells_of_other_settings_do_not_count(tmp_path: Path) -> None:
    write_cells(tmp_path, (0,), {"probe": (0.5, 0.5)})
    assert not vision_page.read_cells(tmp_path, vision.Settings(epochs=9))
