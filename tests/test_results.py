from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.errors import InputError, StorageError
from bequest.results import Section, results_document, write_results

GOOD: dict[str, Any] = {
    "table": {"columns": ["model", "layers"], "rows": [["whole", 30], [None, True]]},
    "lines": {
        "x_label": "step",
        "y_label": "loss (nats/token)",
        "series": [
            {"name": "raw", "x": [0, 10, 20], "y": [3.5, None, 3.0]},
            {
                "name": "averaged",
                "x": [10, 20],
                "y": [3.1, 2.9],
                "interval": {"low": [3.0, 2.8], "high": [3.2, None]},
            },
        ],
    },
    "heatmap": {
        "x_label": "head",
        "y_label": "layer",
        "value_label": "rank",
        "x": [0, 1, 2],
        "y": ["first", "last"],
        "values": [[1, 2.5, None], [4, 5, 6]],
    },
    "histogram": {
        "x_label": "weight",
        "y_label": "samples",
        "edges": [0, 0.5, 1.0],
        "series": [{"name": "flow", "counts": [3, 0]}, {"name": "stm", "counts": [1.5, 2]}],
    },
    "scatter": {
        "x_label": "target",
        "y_label": "retained",
        "series": [
            {"name": "flow", "x": [1, 2], "y": [0.5, 0.7], "labels": ["seed 0", "seed 1"]},
            {"name": "standard", "x": [3.0], "y": [0.1]},
        ],
    },
}


def section(kind: str, data: Any) -> Section:
    return Section(title="A title", type=kind, data=data)  # type: ignore[arg-type]


def changed(kind: str, path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of the good data with one value replaced."""
    data = copy.deepcopy(GOOD[kind])
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize("kind", GOOD)
def test_written_and_read_back_the_same(kind: str, tmp_path: Path) -> None:
    path = write_results(
        tmp_path / "new" / "folder", "bequest do this", [section(kind, GOOD[kind])]
    )
    assert path == tmp_path / "new" / "folder" / "results.json"
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "schema_version": 1,
        "command": "bequest do this",
        "sections": [{"title": "A title", "type": kind, "data": GOOD[kind]}],
    }


WRONG: list[tuple[str, tuple[str | int, ...], Any, str]] = [
    ("table", ("columns", 0), 3, "data['columns'][0] must be a str, got 3 (int)"),
    ("table", ("rows", 0), ["whole"], "data['rows'][0] must be a list of 2 values"),
    ("table", ("rows", 0, 1), float("nan"), "data['rows'][0][1] must be a str, a finite"),
    ("table", ("rows", 0, 1), np.float32(1), "data['rows'][0][1]"),
    ("table", ("rows", 0, 1), [1], "data['rows'][0][1]"),
    ("table", ("caption",), "more", "data must be a mapping with the keys columns, rows"),
    ("lines", ("x_label",), None, "data['x_label'] must be a str"),
    ("lines", ("series",), {"raw": [1]}, "data['series'] must be a list"),
    ("lines", ("series", 0, "x", 1), None, "data['series'][0]['x'][1] must be a finite int"),
    ("lines", ("series", 0, "y"), [1.0, 2.0], "data['series'][0]['y'] must be a list of 3"),
    ("lines", ("series", 0, "y", 2), float("inf"), "data['series'][0]['y'][2]"),
    ("lines", ("series", 0, "y", 2), True, "data['series'][0]['y'][2]"),
    ("lines", ("series", 1, "interval"), {"low": [1, 2]}, "['interval']['high'] must be given"),
    ("lines", ("series", 1, "interval", "low"), [1], "['low'] must be a list of 2 values"),
    ("heatmap", ("values",), [[1, 2, 3]], "data['values'] must be a list of 2 values"),
    ("heatmap", ("values", 1), [4, 5], "data['values'][1] must be a list of 3 values"),
    ("heatmap", ("values", 1, 0), float("-inf"), "data['values'][1][0]"),
    ("heatmap", ("x", 0), 0.5, "data['x'][0] must be a str or int"),
    ("histogram", ("edges",), [0, 1], "['counts'] must be a list of 1 values"),
    ("histogram", ("edges",), [0.0], "data['edges'] must be a list of 2 values"),
    ("histogram", ("edges",), [0, 1, 1], "data['edges'] must be increasing numbers"),
    ("histogram", ("series", 0, "counts", 0), -1, "['counts'][0] must be a number >= 0"),
    ("scatter", ("series", 0, "labels"), ["one"], "['labels'] must be a list of 2 values"),
    ("scatter", ("series", 0, "y", 0), None, "data['series'][0]['y'][0] must be a finite int"),
    ("scatter", ("series", 0, "nmae"), "x", "data['series'][0] must be a mapping with the keys"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), WRONG)
def test_wrong_data_is_refused_and_named(
    kind: str, path: tuple[str | int, ...], value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        section(kind, changed(kind, path, value))
    assert "A title" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", GOOD)
def test_every_required_key_is_required(kind: str) -> None:
    for key in GOOD[kind]:
        with pytest.raises(InputError, match=re.escape(f"data['{key}'] must be given")):
            section(kind, {other: GOOD[kind][other] for other in GOOD[kind] if other != key})


def test_title_type_and_command_are_checked() -> None:
    with pytest.raises(InputError, match="title"):
        Section(title=" ", type="table", data=GOOD["table"])
    with pytest.raises(InputError, match="one of table, lines, heatmap, histogram, scatter"):
        section("pie", GOOD["table"])
    with pytest.raises(InputError, match="command"):
        results_document("", [])


def test_an_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write .*file/results\.json"):
        write_results(tmp_path / "file", "bequest do this", [])
    assert (tmp_path / "file").read_text() == "not a folder"


def test_file_names_of_any_bytes_can_be_in_the_command(tmp_path: Path) -> None:
    command = "bequest inherit " + b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")
    path = write_results(tmp_path, command, [])
    assert json.loads(path.read_text(encoding="utf-8"))["command"] == command


def test_overwrites(tmp_path: Path) -> None:
    write_results(tmp_path, "bequest one", [section("table", GOOD["table"])])
    write_results(tmp_path, "bequest two", [])
    assert json.loads((tmp_path / "results.json").read_text())["command"] == "bequest two"


def test_the_documentation_writes_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "results.md"
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    shown = json.loads(blocks["json"])
    made = [Section(**found) for found in shown["sections"]]
    assert results_document(shown["command"], made) == shown
    monkeypatch.chdir(tmp_path)
    exec(blocks["python"], {})
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert written["sections"][0]["title"] == "Validation loss"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(kind=st.sampled_from(sorted(GOOD)), data=st.data())
def test_any_replacement_is_refused_or_survives_strict_json(kind: str, data: Any) -> None:
    """Whatever gets through the check is valid JSON that reads back equal."""
    key = data.draw(st.sampled_from(sorted(GOOD[kind])))
    value = data.draw(json_values)
    try:
        made = section(kind, changed(kind, (key,), value))
    except InputError:
        return
    document = results_document("bequest do this", [made])
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("table", {"headline": True, "metrics": []}),
        ("lines", {"x_scale": "linear", "y_scale": "linear"}),
        ("scatter", {"x_scale": "linear"}),
    ],
)
def test_what_a_report_is_told(kind: str, more: dict[str, Any]) -> None:
    assert section(kind, {**GOOD[kind], **more}).data.items() >= more.items()


@pytest.mark.parametrize(
    ("kind", "more", "found"),
    [
        ("table", {"headline": 1}, "true or false"),
        ("table", {"metrics": [{"task": "t"}]}, "'dataset'"),
        ("lines", {"y_scale": "cubic"}, '"linear" or "log"'),
        ("lines", {"series": [{"name": "a", "x": [0], "y": [1]}], "x_scale": "log"}, "x axis"),
        (
            "lines",
            {
                "series": [
                    {"name": "a", "x": [1], "y": [1], "interval": {"low": [0], "high": [2]}},
                ],
                "y_scale": "log",
            },
            "y axis, must be above 0, got 0",
        ),
        (
            "scatter",
            {
                "series": [
                    {"name": "a", "x": [1], "y": [1], "x_interval": {"low": [-1], "high": [2]}}
                ],
                "x_scale": "log",
            },
            "x axis",
        ),
        (
            "scatter",
            {"series": [{"name": "a", "x": [1], "y": [1], "y_interval": {"low": [0, 1]}}]},
            "y_interval",
        ),
        ("scatter", {"series": [{"name": "a", "x": [10**400], "y": [1]}]}, "finite"),
        ("scatter", {"y_ticks": ["a"]}, "one of the rows 0 to 0"),
    ],
)
def test_what_a_report_could_not_draw_is_refused(
    kind: str, more: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError, match=found):
        section(kind, {**GOOD[kind], **more})
