"""What the benchmark of `inherit` rests on: its synthetic model, its check, and bounded memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.harness import ROOT, BenchmarkError, Contender, run_once
from benchmarks.inherit import ENVIRONMENT
from benchmarks.inherit_phases import PARTS
from benchmarks.memory import watch
from benchmarks.outputs import check_first_blocks, stored_tensors
from benchmarks.synthetic import Synthetic, synthetic_of, write_synthetic

SMALL = Synthetic(hidden_size=512, num_hidden_layers=3, num_shards=2)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, smollm2_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "model"
    write_synthetic(SMALL, folder, smollm2_folder)
    return folder


def test_transformers_loads_the_synthetic_model(small_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        small_model, dtype="auto", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in model.parameters()) * 2 == SMALL.num_bytes


def test_the_synthetic_model_lies_in_several_files(small_model: Path) -> None:
    index = json.loads((small_model / "model.safetensors.index.json").read_text())
    tensors = stored_tensors(small_model)
    assert {name: tensor.file.name for name, tensor in tensors.items()} == index["weight_map"]
    assert len(set(index["weight_map"].values())) == SMALL.num_shards


@pytest.mark.parametrize("asked", [0.3e9, 1e9, 8e9, 20e9])
def test_all_blocks_but_one_take_at_least_what_was_asked(asked: float) -> None:
    shape = synthetic_of(asked)
    written = shape.num_bytes - shape.block_bytes
    assert asked <= written < asked + shape.block_bytes


@pytest.fixture
def cut_model(small_model: Path, tmp_path: Path) -> Path:
    """The first two of three blocks, cut by the timed command, which writes its phases."""
    out, result = tmp_path / "out", tmp_path / "phases.json"
    arguments = (str(result), str(small_model), str(out), "--layers", "2", "--quiet")
    run_once(
        Contender(
            name="phases",
            command=(sys.executable, "-m", "benchmarks.inherit_phases", *arguments),
            environment={**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )
    )
    return out


def test_phases_and_output_of_the_timed_command(small_model: Path, cut_model: Path) -> None:
    phases = json.loads((cut_model.parent / "phases.json").read_text())
    assert set(phases) == {*PARTS, "start", "whole"}
    assert all(value > 0 for value in phases.values())
    one_after_another = ("start", "plan", "copy", "small files", "flush")
    assert sum(phases[name] for name in one_after_another) <= phases["whole"]
    check_first_blocks(small_model, cut_model, 2)


def test_the_check_sees_a_wrong_depth(small_model: Path, cut_model: Path) -> None:
    with pytest.raises(BenchmarkError, match="says 2 layers, not 1"):
        check_first_blocks(small_model, cut_model, 1)


def test_the_check_sees_a_missing_block(small_model: Path, cut_model: Path) -> None:
    config = json.loads((cut_model / "config.json").read_text()) | {"num_hidden_layers": 3}
    (cut_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchmarkError, match="keys differ"):
        check_first_blocks(small_model, cut_model, 3)


def test_the_check_sees_one_wrong_byte(small_model: Path, cut_model: Path) -> None:
    tensor = stored_tensors(cut_model)["model.layers.1.mlp.up_proj.weight"]
    with tensor.file.open("r+b") as opened:
        opened.seek(tensor.start + tensor.num_bytes - 1)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 1]))
    with pytest.raises(BenchmarkError, match=r"layers\.1\.mlp\.up_proj\.weight differs"):
        check_first_blocks(small_model, cut_model, 2)


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_the_model(
    tmp_path: Path, small_model: Path, smollm2_folder: Path
) -> None:
    """The kernel's own peaks of `bequest inherit` for 0.2 GB and for 2.5 GB are alike.

    The largest tensor of the larger model alone is bigger than the difference that is allowed.
    """
    large = Synthetic(hidden_size=2048, num_hidden_layers=20, num_shards=4)
    write_synthetic(large, tmp_path / "large", smollm2_folder)
    peaks = []
    for source, layers in ((small_model, 2), (tmp_path / "large", 19)):
        bequest = str(Path(sys.executable).with_name("bequest"))
        out = str(tmp_path / f"out-{layers}")
        command = (bequest, "inherit", str(source), out, "--layers", str(layers), "--quiet")
        peaks.append(watch(command, ENVIRONMENT))
    allowed = 48 << 20
    assert max(tensor.num_bytes for tensor in stored_tensors(tmp_path / "large").values()) > allowed
    assert peaks[1].resident_bytes - peaks[0].resident_bytes < allowed
    assert peaks[1].anonymous_bytes - peaks[0].anonymous_bytes < allowed
