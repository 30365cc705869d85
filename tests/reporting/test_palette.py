"""Colours: what has to be read or told apart can be, in both themes."""

from __future__ import annotations

import itertools

import pytest

from bequest.reporting import palette
from bequest.reporting.heatmap import shade
from bequest.reporting.numbers import ranges, shown
from bequest.reporting.palette import contrast
from bequest.reporting.tables import table


def values_of(theme: palette.Theme) -> dict[str, str]:
    pairs = (one.split(": ") for one in str(palette.variables(theme)).split("; "))
    return {one[0]: one[1] for one in pairs}


def test_contrast_is_the_standard_s() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme: palette.Theme) -> None:
    found = values_of(theme)
    for text, ground in itertools.product(
        ("--ink", "--muted", "--accent"), ("--paper", "--panel", "--tint")
    ):
        assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for number in range(palette.NUM_SERIES):
        assert contrast(found[f"--series-{number + 1}"], found["--paper"]) >= 3, number
    assert set(found) == set(palette._ROLES.values()) | {"--panel", "--tint", "--accent"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_values_in_cells_can_be_read(theme: palette.Theme) -> None:
    found = values_of(theme)
    for name in ("heat", "diverge"):
        for step in range(palette.NUM_STEPS):
            assert contrast(found[f"--on-{name}-{step}"], found[f"--{name}-{step}"]) >= 3.7, step


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_heat_map_s_shades_go_one_way(theme: palette.Theme) -> None:
    found = values_of(theme)
    lights = [contrast(found[f"--heat-{step}"], "#000000") for step in range(palette.NUM_STEPS)]
    assert lights == sorted(lights, reverse=theme == "light")
    assert len(set(lights)) == palette.NUM_STEPS


def test_series_differ_by_more_than_colour() -> None:
    signs = [(palette.series_dashes(n), palette.series_marker(n)) for n in range(16)]
    assert len({marker for _, marker in signs[:8]}) == 8
    assert all(one != other for one, other in itertools.pairwise(signs))
    assert len({(palette.series_colour(n), *signs[n]) for n in range(16)}) == 16


def test_shades() -> None:
    assert [shade(value, 0, 16) for value in (0, 16, 8, 99)] == [0, 16, 8, 16]
    assert shade(3, 3, 3) == palette.NUM_STEPS // 2
    assert shade(1e308, -1e308, 1e308) == 16


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (134515008, "134,515,008"),
        (-3, "\u22123"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (1e-7, "1e\u22127"),
        (6.02e23, "6.02e23"),
        (10**40, "1e40"),
        (True, "yes"),
        (None, ""),
        ("<b>", "<b>"),
        (2.0, "2"),
    ],
)
def test_numbers(value: object, written: str) -> None:
    assert shown(value) == written


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 6, 9]) == "0\u20132, 5, 6, 9" and ranges([]) == ""


def test_a_column_of_fractions_has_one_number_of_decimals() -> None:
    made = table(["a", "b", "c"], [[2.2, 1, 0.5], [2.1744, 2.5, 1e-9], [None, None, 3.0]])
    texts = [[cell.text for cell in row] for row in made.rows]
    assert [row[0] for row in texts] == ["2.200", "2.174", ""]
    assert [row[1] for row in texts] == ["1", "2.5", ""]
    assert made.numeric == (True, True, True) and not made.heads


def test_a_long_table_says_what_it_left_out() -> None:
    made = table(["a"], [[number] for number in range(12)], most=10)
    assert len(made.rows) == 10 and made.left_out == 2
