"""The lineage: one graph from several folders, every edge downwards, no box on another."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import bequest
from bequest.reporting.layers import components, place
from bequest.reporting.lineage_graph import LineageGraph, lineage_graph, setting_text
from bequest.reporting.lineage_picture import draw_lineage, fit
from bequest.reporting.runs import read_runs
from reporting.samples import every_kind, lineage, write_run


def graph_of(folder: Path, **records: dict[str, Any]) -> LineageGraph:
    sections = every_kind()[:1]
    runs = [write_run(folder / name, sections, "c", record) for name, record in records.items()]
    return lineage_graph(read_runs(runs))


def test_a_chain_is_joined_where_it_meets(tmp_path: Path) -> None:
    first = lineage("big")
    teacher = {"role": "teacher", "name": "elsewhere/big", "identity_sha256": "of big"}
    second = lineage("student", operation="grow", lineage=first)
    second["inputs"].append(teacher)
    # A card was written again: another file, the same model.
    again = {**first, "outputs": [{"name": "README.md", "size": 1}]}
    graph = graph_of(tmp_path, grown=second, student=again)
    assert sorted(model.name for model in graph.models.values()) == ["big", "grown", "student"]
    assert [operation.name for operation in graph.operations.values()] == ["inherit", "grow"]
    grow = list(graph.operations.values())[1]
    assert [graph.models[key].name for _, key in grow.inputs] == ["student", "big"]
    assert all(model.reported == (model.name != "big") for model in graph.models.values())


def test_a_copy_is_the_same_model_under_two_names(tmp_path: Path) -> None:
    first = lineage("big")
    graph = graph_of(tmp_path, student=first, copy=first)
    (box,) = (model for model in graph.models.values() if model.reported)
    assert (box.name, box.details) == ("student", ("also copy",))
    assert set(graph.reported.values()) == {box.key}
    page = bequest.report(tmp_path / "student", tmp_path / "copy", out=tmp_path / "r.html")
    assert page.read_text(encoding="utf-8").count("Made by inherit from big.") == 2


def test_models_that_differ_stay_apart(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, a=lineage("one"), b=lineage("one", identity_sha256="another"))
    assert [model.name for model in graph.models.values()].count("one") == 2


def test_checkpoints_of_one_run_are_one_box(tmp_path: Path) -> None:
    record = lineage(operation="average")
    record["inputs"] = [{"role": "member", "name": f"run/checkpoint-{n}00"} for n in range(1, 6)]
    graph = graph_of(tmp_path, lawa=record)
    group = next(model for model in graph.models.values() if not model.reported)
    assert (group.name, group.details) == ("5 members", ("checkpoint-100 to", "checkpoint-500"))


def test_settings_are_short() -> None:
    assert setting_text([*range(12), 20, 21]) == "0\u201311, 20, 21"
    assert setting_text({"a": [1], "b": None}) == "a 1, b none"
    assert setting_text(True) == "yes" and setting_text(0) == "0" and setting_text({}) == ""


edges_of_any_graph = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20).map(
    lambda pairs: sorted(
        {(f"n{min(pair)}", f"n{max(pair)}") for pair in pairs if len({*pair}) == 2}
    )
)


@given(edges_of_any_graph)
def test_every_edge_points_down_row_by_row(edges: list[tuple[str, str]]) -> None:
    nodes = [f"n{number}" for number in range(10)]
    plan = place(nodes, edges)
    row_of = {node: number for number, row in enumerate(plan.rows) for node in row}
    assert sorted(node for node in row_of if node not in plan.bends) == sorted(nodes)
    assert [(path[0], path[-1]) for path in plan.paths] == edges
    for path in plan.paths:
        rows = [row_of[node] for node in path]
        assert rows == list(range(rows[0], rows[-1] + 1))
    families = components(nodes, edges)
    assert sorted(node for family in families for node in family) == sorted(nodes)
    assert all(any(one in f and other in f for f in families) for one, other in edges)


def test_no_box_covers_another(tmp_path: Path) -> None:
    first, other = lineage("big"), lineage("other")
    merged = lineage("student", operation="grow", lineage=first)
    merged["inputs"] += [
        {"role": "teacher", "name": "models/big", "identity_sha256": "of big"},
        {"role": "second", "name": "second", "lineage": other},
    ]
    graph = graph_of(tmp_path, a=first, b=merged, c=lineage("third"), d=lineage("fourth"))
    for shape, svg in draw_lineage(graph, "p", "label").items():
        root = ET.fromstring(svg)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        boxes = [
            tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height"))
            for box in root.iter("rect")
        ]
        assert len(boxes) == len(graph.models) + len(graph.operations)
        for number, (x, y, w, h) in enumerate(boxes):
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height, shape
            for x2, y2, w2, h2 in boxes[:number]:
                assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, shape
        assert len(re.findall('class="edge"', svg)) == 12


@given(st.text(max_size=60), st.integers(4, 40))
def test_a_text_fits(text: str, letters: int) -> None:
    shortened = fit(text, letters)
    assert len(shortened) <= letters
    if len(" ".join(text.split())) * 2 <= letters:
        assert shortened == " ".join(text.split())
