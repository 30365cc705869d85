"""Results of every kind for the reports' tests, plain and hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bequest.results import Section, write_results

HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "\"><svg onload='window.broken = 3'>",
    "</title></svg></style><script>window.broken = 4</script>",
    "{{ 7 * 7 }} {% raw %} $\\frac{1 & </text> 'x' \"y\"",
    "javascript:window.broken=5 `|` *a* [b](c) <!-- bequest:results:end -->",
    "\u202egnp.exe\u202c \u4e2d\u6587\U0001f600 \u0001\u0000 \ud800 \ufffe" + "long" * 40,
)


def every_kind(*, named: str = "") -> list[Section]:
    """One section of each kind, and of each option; `named` stands in every text."""
    n = named
    axes = {"x_label": f"step{n}", "y_label": f"loss (nats/token){n}"}
    steps = list(range(0, 500, 25))
    lines = [
        {"name": f"raw{n}", "x": steps, "y": [6 - 0.004 * step for step in steps]},
        {
            "name": f"averaged{n}",
            "x": steps,
            "y": [None if step < 75 else 5.9 - 0.004 * step for step in steps],
            "interval": {
                "low": [None if step < 75 else 5.8 - 0.004 * step for step in steps],
                "high": [None if step < 75 else 6.0 - 0.004 * step for step in steps],
            },
        },
    ]
    layers = [f"layer {layer}{n}" for layer in range(6)]
    heat = [
        [None if row == column else row * column / 7 for column in range(8)] for row in range(6)
    ]
    small = [[-0.4, 0.1, None], [0.2, 0.4, 0.0]]
    points = {
        "name": f"FLOW{n}",
        "x": [0.61, 0.66],
        "y": [-0.02, -0.05],
        "labels": [f"seed 1{n}", f"seed 2{n}"],
        "x_interval": {"low": [0.58, None], "high": [0.64, 0.7]},
        "y_interval": {"low": [-0.03, -0.07], "high": [-0.01, -0.03]},
    }
    standard = {"name": f"standard{n}", "x": [0.62], "y": [-0.21], "labels": [f"seed 1{n}"]}
    metric = {"task": f"text-generation{n}", "dataset": f"Social IQa{n}", "metric": f"acc{n}"}
    return [
        Section(
            title=f"Gains and losses{n}",
            type="table",
            data={
                "columns": [f"task{n}", "", "before", "after", "significant"],
                "rows": [
                    [f"social_iqa{n}", f"acc{n}", 0.36, 0.385, False],
                    [f"brown{n}", f"bits{n}", 1.1421, 1.2, True],
                    [f"none{n}", None, None, -0.053, None],
                ],
                "headline": True,
                "metrics": [{**metric, "value": 0.385}],
            },
        ),
        Section(title=f"Loss{n}", type="lines", data={**axes, "series": lines}),
        Section(
            title=f"Logarithmic{n}",
            type="lines",
            data={
                **axes,
                "x_scale": "log",
                "y_scale": "log",
                "series": [{"name": f"one{n}", "x": [1, 10, 1000], "y": [1e-5, 0.1, 20000]}],
            },
        ),
        Section(
            title=f"Attention rank{n}",
            type="heatmap",
            data={
                "x_label": f"head{n}",
                "y_label": f"layer{n}",
                "value_label": f"rank{n}",
                "x": list(range(8)),
                "y": layers,
                "values": heat,
            },
        ),
        Section(
            title=f"Differences{n}",
            type="heatmap",
            data={
                "x_label": f"a{n}",
                "y_label": f"b{n}",
                "value_label": f"c{n}",
                "x": [f"p{n}", f"q{n}", 3],
                "y": [1, 2],
                "values": small,
            },
        ),
        Section(
            title=f"Weights{n}",
            type="histogram",
            data={
                "x_label": f"weight{n}",
                "y_label": f"samples{n}",
                "edges": [0.0, 0.25, 0.5, 0.75, 1.0],
                "series": [
                    {"name": f"plain{n}", "counts": [3, 40, 21, 0]},
                    {"name": f"weighted{n}", "counts": [1.5, 38.2, 30.1, 0.0]},
                ],
            },
        ),
        Section(
            title=f"Target against forgetting{n}",
            type="scatter",
            data={
                "x_label": f"accuracy on the target{n}",
                "y_label": f"change elsewhere{n}",
                "series": [standard, points],
            },
        ),
        Section(
            title=f"Gains by task{n}",
            type="scatter",
            data={
                "x_label": f"gain{n}",
                "y_label": f"task{n}",
                "y_ticks": [f"brown{n}", f"questions{n}", f"a task of a long name, shortened{n}"],
                "series": [
                    {
                        "name": f"FLOW{n}",
                        "x": [0.1, -0.2, 0.0],
                        "y": [0, 1, 2],
                        "x_interval": {"low": [0.05, -0.4, None], "high": [0.2, 0.1, None]},
                    },
                    {"name": f"standard{n}", "x": [0.3], "y": [1]},
                ],
            },
        ),
        Section(
            title="Cost",
            type="table",
            data={"columns": ["what", f"value{n}"], "rows": [[f"seconds{n}", 12.5], ["GB", 0.54]]},
        ),
        Section(title=f"Nothing{n}", type="lines", data={**axes, "series": []}),
    ]


def gains() -> Section:
    """The table of an evaluation, as broad as it gets: every column and every long verdict."""
    columns = ["task", "metric", "better is", "items", "before", "after", "score before"]
    columns += ["score after", "difference", "95% interval, low", "95% interval, high", "p"]
    columns += ["corrected p", "verdict", "smallest difference it could show"]
    numbers = [1.20770, 1.15371, -0.0539941, -0.1135020, -0.0204754, 0.01, 0.02]
    rows = [
        [
            f"{task}.jsonl",
            "bits per byte",
            "lower",
            18,
            "before",
            model,
            *numbers,
            verdict,
            0.0934428,
        ]
        for model in ("standard", "flow")
        for task, verdict in (("questions", "better"), ("brown", "no change seen"))
    ]
    data = {"columns": columns, "rows": rows, "headline": True}
    return Section(title="Gains and losses", type="table", data=data)


def lineage(name: str = "big", *, operation: str = "inherit", **more: Any) -> dict[str, Any]:
    """What `bequest.json` says of a model made of another."""
    source = {"role": "source", "name": f"models/{name}", "identity_sha256": f"of {name}"}
    return {
        "schema_version": 1,
        "operation": operation,
        "created": "2026-11-23T21:10:15Z",
        "command": f"bequest {operation} models/{name} out",
        "versions": {"bequest": "0.1.0", "torch": "2.13.0"},
        "settings": {"num_hidden_layers": 15, "source_blocks": [*range(12), 20, 21], "dtype": None},
        "inputs": [{**source, **more}],
        "outputs": [],
    }


def write_run(
    folder: Path, sections: list[Section], command: str, record: dict[str, Any] | None = None
) -> Path:
    """Write a folder as a command would."""
    write_results(folder, command, sections)
    if record is not None:
        (folder / "bequest.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def hostile_record(text: str) -> dict[str, Any]:
    """A lineage whose every text is hostile, its keys too."""
    record = lineage(text, operation=text, role=text, repo_id=text, revision=text)
    record["settings"] |= {text: text, "patterns": [text, {text: text}]}
    record["versions"] = {text: text}
    record["created"] = record["command"] = text
    record["inputs"] += [{"role": text, "name": f"{text}/{n}"} for n in range(5)]
    earlier = lineage(f"older {text}", operation=text)
    record["inputs"].append({"role": "teacher", "name": text, "lineage": earlier})
    return record
