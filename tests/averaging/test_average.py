"""`average_checkpoints` on transformers folders: every bit, every choice, every refusal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import bequest
from averaging import runs
from bequest.averaging.coefficients import blended, coefficient_vector
from bequest.checkpoints.lineage import read_lineage
from bequest.checkpoints.lineage_check import verify_outputs
from bequest.errors import BequestError

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_trainer_run(tmp_path_factory.mktemp("trainer") / "run")


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", [None, *DTYPES])
def test_every_bit_in_every_dtype(stored: str, wanted: str | None, tmp_path: Path) -> None:
    steps = (1, 2, 3)
    for step in steps:
        runs.write_model(tmp_path / f"step{step}", step, DTYPES[stored])
    bequest.average_checkpoints(tmp_path, tmp_path / "out", window=3, dtype=wanted)
    states = [runs.state_of(step, DTYPES[stored]) for step in steps]
    dtype = DTYPES[wanted or stored]
    runs.same_bits(
        runs.read(tmp_path / "out"),
        runs.exact_average(states, coefficient_vector("uniform", 3)),
        dtype,
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == (wanted or stored)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == dtype


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"window": 2}, (500, 600)),
        ({"window": 3, "spacing": 200}, (200, 400, 600)),
        ({"window": 2, "spacing": 300, "end": 500}, (200, 500)),
        ({"window": 1, "end": 300}, (300,)),
        ({}, (200, 300, 400, 500, 600)),
    ],
)
def test_windows_of_a_run(
    run: Path, tmp_path: Path, options: dict[str, Any], steps: tuple[int, ...]
) -> None:
    plan = bequest.average_checkpoints(run, tmp_path / "out", **options)
    assert [member.step for member in plan.members] == list(steps)
    vector = coefficient_vector("uniform", len(steps))
    expected = runs.exact_average(map(runs.state_of, steps), vector)
    runs.same_bits(runs.read(tmp_path / "out"), expected, torch.float32)


@settings(max_examples=25)
@given(
    spec=st.sampled_from(["uniform", "linear", "ema:0.3", "decay:1-sqrt", "qam:decay:cosine"]),
    size=st.integers(1, 6),
    blend=st.floats(0, 1),
    exclude=st.lists(st.sampled_from(["embed", "norm", r"layers\.1\."]), unique=True),
)
def test_any_mixture(
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    spec: str,
    size: int,
    blend: float,
    exclude: list[str],
) -> None:
    out = tmp_path_factory.mktemp("mixture") / "out"
    bequest.average_checkpoints(
        run, out, window=size, coefficients=spec, blend=blend, exclude=exclude
    )
    states = [runs.state_of(step) for step in runs.STEPS[-size:]]
    vector = blended(coefficient_vector(spec, size), blend)
    expected = runs.exact_average(states, vector)
    for name in expected:
        if any(re.search(pattern, name) for pattern in exclude):
            expected[name] = states[-1][name].double().numpy()
    runs.same_bits(runs.read(out), expected, torch.float32)
    shutil.rmtree(out)


def test_shards_that_are_cut_differently(tmp_path: Path) -> None:
    for step, size in ((1, "3KB"), (2, "50MB"), (3, "7KB")):
        runs.write_model(tmp_path / f"step{step}", step, max_shard_size=size)
    assert len(list((tmp_path / "step1").glob("*.safetensors"))) > 2
    plan = bequest.average_checkpoints(tmp_path, tmp_path / "out", window=3, max_shard_size="5KB")
    assert len(plan.shards) > 2
    expected = runs.exact_average(map(runs.state_of, (1, 2, 3)), coefficient_vector("uniform", 3))
    runs.same_bits(runs.read(tmp_path / "out"), expected, torch.float32)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_numbers_that_are_no_floats_come_from_the_newest(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / f"step{step}"
        folder.mkdir()
        state = {
            "w": torch.full((3,), float(step)),
            "counter": torch.tensor(step),
            "mask": torch.tensor([step == 1, True]),
            "empty": torch.zeros(0, 4),
        }
        save_file(state, folder / "model.safetensors")
    bequest.average_checkpoints(tmp_path, tmp_path / "out", window=2)
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert out["w"].tolist() == [1.5] * 3
    assert out["counter"].item() == 2
    assert out["mask"].tolist() == [False, True]
    assert out["empty"].shape == (0, 4)


def test_ties_are_kept(run: Path, tmp_path: Path) -> None:
    bequest.average_checkpoints(run, tmp_path / "out", verify=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_stands_beside_the_weights(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bequest.average_checkpoints(run, out, window=3, spacing=100, exclude=["embed"], hash=True)
    record = read_lineage(out)
    assert record["operation"] == "average"
    assert record["settings"]["steps"] == [400, 500, 600]
    assert [item["name"] for item in record["inputs"]] == [
        str(run / f"checkpoint-{step}") for step in (400, 500, 600)
    ]
    assert all(check.intact for check in verify_outputs(out, record, full_hash=True))
    results = json.loads((out / "results.json").read_text())
    assert [section["type"] for section in results["sections"]] == ["table", "table", "table"]
    assert "2306.03241" in (out / "README.md").read_text()
    decayed = tmp_path / "decayed"
    bequest.average_checkpoints(run, decayed, window=3, spacing=100, coefficients="decay:cosine")
    card = (decayed / "README.md").read_text()
    assert "2507.17634" in card and "2306.03241" not in card
    assert not {"trainer_state.json", "optimizer.pt", "training_args.bin"} & {
        path.name for path in out.iterdir()
    }


def test_the_function_takes_numbers_and_several_paths(run: Path, tmp_path: Path) -> None:
    paths = [run / "checkpoint-100", run / "checkpoint-400"]
    bequest.average_checkpoints(paths, tmp_path / "out", coefficients=[0.25, np.float64(0.75)])
    expected = runs.exact_average(map(runs.state_of, (100, 400)), (0.25, 0.75))
    runs.same_bits(runs.read(tmp_path / "out"), expected, torch.float32)


# Refusals


def refuse(source: Any, out: Path, **options: Any) -> str:
    """Hold a request to be refused with one sentence and without a trace on the disk."""
    before = sorted(str(path) for path in out.parent.rglob("*"))
    with pytest.raises(BequestError) as refusal:
        bequest.average_checkpoints(source, out, **options)
    assert sorted(str(path) for path in out.parent.rglob("*")) == before
    message = str(refusal.value)
    assert refusal.value.exit_code == 2, message
    assert "\n" not in message
    assert not re.search(r"Traceback|Errno|object at 0x|\.\.$", message), message
    return message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 7}, "window is 7, but run .* has 6 checkpoints"),
        ({"window": 0}, "window is 0"),
        ({"window": 2, "spacing": 0}, "spacing is 0"),
        ({"window": 3, "spacing": 150}, "no checkpoint of step 450"),
        ({"window": 3, "spacing": 200, "end": 300}, "--end 500 or 600"),
        ({"end": 250}, "end is 250, but run .* has the steps 100, 200"),
        ({"coefficients": "0.5,0.5"}, "coefficients has 2 numbers"),
        ({"coefficients": "median"}, "coefficients is 'median'"),
        ({"blend": 1.5}, "blend is 1.5"),
        ({"exclude": ["lm_heat"]}, "matches no tensor"),
        ({"exclude": ["("]}, "no regular expression"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"max_shard_size": "many"}, "max_shard_size is 'many'"),
        ({"config_from": "elsewhere"}, "config.json of its own"),
    ],
)
def test_requests_that_do_not_fit(
    run: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    assert re.search(said, refuse(run, tmp_path / "out", **options))


def test_sources_that_are_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert "is no folder" in refuse(tmp_path / "missing", out)
    assert "holds no checkpoints" in refuse(tmp_path / "empty", out)
    assert "sources is empty" in refuse([], out)
    twice = [run / "checkpoint-200", run / "checkpoint-100"]
    assert "oldest first" in refuse(twice, out)
    assert "window is 3" in refuse(twice[::-1], out, window=3)
    assert "spacing is 100" in refuse(twice[::-1], out, spacing=100)
    assert "overlaps" in refuse(run, run / "checkpoint-600" / "out")


def test_two_checkpoints_of_one_step(tmp_path: Path) -> None:
    for name in ("checkpoint-5", "step5"):
        runs.write_model(tmp_path / "run" / name, 5)
    assert "both of step 5" in refuse(tmp_path / "run", tmp_path / "out")


def _config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _tensors(folder: Path, change: Callable[[runs.State], object]) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


NORM = "model.norm.weight"

FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("a field", lambda f: _config(f, rope_theta=5.0), "config.json has rope_theta"),
    (
        "a nested field",
        lambda f: _config(f, rope_parameters={"rope_type": "default", "rope_theta": 7.0}),
        "rope_parameters.rope_theta = 7.0 and 10000.0",
    ),
    ("a key", lambda f: _tensors(f, lambda s: s.pop(NORM)), f"older one lacks tensor '{NORM}'"),
    (
        "a key too many",
        lambda f: _tensors(f, lambda s: s.update(extra=torch.ones(2))),
        "newer one lacks tensor 'extra'",
    ),
    (
        "a shape",
        lambda f: _tensors(f, lambda s: s.update({NORM: torch.ones(8)})),
        r"shapes \[8\] and \[16\]",
    ),
    (
        "a dtype",
        lambda f: _tensors(f, lambda s: s.update({NORM: s[NORM].half()})),
        "F16 and F32; give --dtype",
    ),
    (
        "a kind of number",
        lambda f: _tensors(f, lambda s: s.update({NORM: s[NORM].int()})),
        "I32 and F32",
    ),
    ("half a file", lambda f: _cut(f / "model.safetensors"), "truncated"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    ("no state", lambda f: (f / "trainer_state.json").unlink(), "trainer_state.json"),
    ("half a state", lambda f: _cut(f / "trainer_state.json"), "trainer_state.json"),
    ("no optimizer", lambda f: (f / "optimizer.pt").unlink(), "no optimizer state"),
    (
        "a mark",
        lambda f: (f / "checkpoint-is-incomplete.txt").write_text(""),
        "checkpoint-is-incomplete.txt",
    ),
    (
        "NaN",
        lambda f: _tensors(f, lambda s: s[NORM].__setitem__(3, float("nan"))),
        f"checkpoint-500: tensor '{NORM}' holds NaN or Inf; pass --skip-bad",
    ),
    (
        "Inf",
        lambda f: _tensors(f, lambda s: s[NORM].__setitem__(3, float("-inf"))),
        f"checkpoint-500: tensor '{NORM}' holds NaN or Inf; pass --skip-bad",
    ),
]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("fault", "said"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_members_that_do_not_fit(
    run: Path, tmp_path: Path, fault: Callable[[Path], object], said: str
) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    fault(broken / "checkpoint-500")
    assert re.search(said, refuse(broken, tmp_path / "out", window=3))


def test_a_dtype_brings_different_members_together(tmp_path: Path) -> None:
    runs.write_model(tmp_path / "step1", 1, torch.bfloat16)
    runs.write_model(tmp_path / "step2", 2)
    bequest.average_checkpoints(tmp_path, tmp_path / "out", window=2, dtype="float32")
    states = [runs.state_of(1, torch.bfloat16), runs.state_of(2)]
    runs.same_bits(
        runs.read(tmp_path / "out"), runs.exact_average(states, (0.5, 0.5)), torch.float32
    )


def test_an_average_that_is_too_large(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"step{step}").mkdir()
        save_file({"w": torch.full((3,), 1e6)}, tmp_path / f"step{step}" / "model.safetensors")
    said = refuse(tmp_path, tmp_path / "out", window=2, dtype="float16")
    assert "'w' is too large for F16" in said


def test_quantized_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"step{step}").mkdir()
        weights = torch.ones(4).to(torch.float8_e4m3fn)
        save_file({"w": weights}, tmp_path / f"step{step}" / "model.safetensors")
    assert "is quantized" in refuse(tmp_path, tmp_path / "out", window=2)


def test_skip_bad(run: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    for step in (400, 600):
        _tensors(
            broken / f"checkpoint-{step}", lambda state: state[NORM].__setitem__(0, float("inf"))
        )
    plan = bequest.average_checkpoints(broken, tmp_path / "out", window=4, skip_bad=True)
    assert [member.step for member in plan.members] == [300, 500]
    assert sorted(read_lineage(tmp_path / "out")["settings"]["skipped"]) == [
        str(broken / f"checkpoint-{step}") for step in (400, 600)
    ]
    expected = runs.exact_average(map(runs.state_of, (300, 500)), (0.5, 0.5))
    runs.same_bits(runs.read(tmp_path / "out"), expected, torch.float32)
    said = refuse(broken, tmp_path / "other", window=2, skip_bad=True, coefficients="0.5,0.5")
    assert "coefficients has 2 numbers" in said


def test_an_unfinished_end_is_left_out(run: Path, tmp_path: Path) -> None:
    going_on = Path(shutil.copytree(run, tmp_path / "run"))
    (going_on / "checkpoint-600" / "trainer_state.json").unlink()
    plan = bequest.average_checkpoints(going_on, tmp_path / "out", window=2)
    assert [member.step for member in plan.members] == [400, 500]
    assert any("checkpoint-600" in note for note in plan.notes)


def test_a_run_without_optimizers(run: Path, tmp_path: Path) -> None:
    weights_only = Path(shutil.copytree(run, tmp_path / "run"))
    for file in weights_only.glob("*/optimizer.pt"):
        file.unlink()
    plan = bequest.average_checkpoints(weights_only, tmp_path / "out", window=2)
    assert [member.step for member in plan.members] == [500, 600]


def test_overwrite(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bequest.average_checkpoints(run, out, window=2)
    before = (out / "model.safetensors").read_bytes()
    assert "exists" in refuse(run, out, window=3)
    assert (out / "model.safetensors").read_bytes() == before
    bequest.average_checkpoints(run, out, window=3, overwrite=True)
    assert (out / "model.safetensors").read_bytes() != before
