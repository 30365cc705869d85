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


def test_seeds_train_on_images_of_their_own() -> None:
    splits = [vision.config_of("emoji", s, "FLOW", vision.Settings()).data.split for s in (0, 1)]
    assert splits == ["train[0:360]", "train[360:720]"]


def test_the_control_takes_steps_as_small_as_the_mean_weight() -> None:
    settings = vision.Settings(learning_rate=0.01)
    for method, rate in (("standard", 0.01), *((name, 0.004) for name in vision.CONTROLS)):
        config = vision.config_of("mnist", 0, method, settings, mean_weight=0.4)
        assert config.training["learning_rate"] == pytest.approx(rate)
        assert config.method.scheme == "uniform"


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
                cell |= {"mean_weight": 0.5, "effective_share": 0.6, "temperature": 0.2}
            (cache / f"{seed}-{method.replace(' ', '')}.json").write_text(json.dumps(cell))


def test_the_table_holds_the_rates(tmp_path: Path) -> None:
    rates = {name: (0.9 - 0.05 * i, 0.2 + 0.08 * i) for i, name in enumerate(vision.METHODS)}
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
    assert len(vision_page.table(cells, seeds, "standard")) == 1 + len(rates)
    for row, (method, less) in zip(
        vision_page.pairs(cells, seeds)[2:], vision_page.RIVALS, strict=True
    ):
        own = [[np.mean(cells["mnist", s, m]["target"]) for s in (0, 1)] for m in (method, less)]
        told = float(row.split("|")[2].split()[0])
        assert told == pytest.approx(100 * (np.mean(own[0]) - np.mean(own[1])), abs=0.051)
    less = vision_page.measured(cells, seeds, "FLOW", "standard")["retained"]
    whole = [
        vision_page.measured(cells, seeds, name)["retained"][0] for name in ("FLOW", "standard")
    ]
    assert less[0] == pytest.approx(whole[0] - whole[1])


def test_images_that_all_seeds_share_are_drawn_once(tmp_path: Path) -> None:
    """Three copies of one run say no more of images than one: the interval may not shrink."""
    rates = dict.fromkeys(vision.METHODS, (0.5, 0.5))
    for seed in (0, 1, 2):
        write_cells(tmp_path, (seed,), rates)
    cells = vision_page.read_cells(tmp_path, vision.Settings())
    widths = []
    for known in ([0], [0, 1, 2]):
        low, high = vision_page.measured(cells, {"mnist": known}, "FLOW")["target"][1:]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_cells_of_other_settings_do_not_count(tmp_path: Path) -> None:
    write_cells(tmp_path, (0,), {"probe": (0.5, 0.5)})
    assert not vision_page.read_cells(tmp_path, vision.Settings(epochs=9))
