"""Half of every architecture of the zoo, grown back to the whole and by one block at a time."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import bequest
from bequest import BequestError
from zoo import checks, keeper, reference
from zoo.raw import read_folder

NAMES = list(keeper.SPECIMENS)


@cache
def _room() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="grown-")


@cache
def _half(name: str) -> Path:
    out = Path(_room().name) / f"{name}-half"
    bequest.inherit(keeper.folder(name), out, layers=len(keeper.SPECIMENS[name].half))
    return out


@pytest.mark.parametrize("name", NAMES)
def test_half_grown_back_to_the_whole_is_the_original(name: str, tmp_path: Path) -> None:
    specimen, teacher = keeper.SPECIMENS[name], keeper.folder(name)
    bequest.grow(_half(name), teacher, tmp_path / "out", layers=specimen.depth)
    whole = range(specimen.depth)
    expected = checks.cut_tensors(specimen, teacher, whole)
    checks.assert_tensors(read_folder(tmp_path / "out"), expected, specimen)
    checks.assert_config(tmp_path / "out", teacher, whole)
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), keeper.load(teacher))


@pytest.mark.parametrize("name", NAMES)
def test_growing_in_two_steps_is_cutting_less(name: str, tmp_path: Path) -> None:
    """The second step follows the lineage that the first one wrote."""
    specimen, teacher = keeper.SPECIMENS[name], keeper.folder(name)
    student = _half(name)
    for depth in range(len(specimen.half) + 1, specimen.depth):
        bequest.grow(student, teacher, tmp_path / str(depth), layers=depth)
        student = tmp_path / str(depth)
        by_hand = reference.cut_by_hand(keeper.load(teacher), range(depth))
        checks.assert_behaves(checks.load_whole(student), by_hand)


@pytest.mark.parametrize(
    "name",
    [
        "llama_tied_bf16",
        "gemma3_pattern",
        "smollm3_lists",
        "qwen3_moe_sparse_step",
        "opt",
        "gpt2_as_published",
        "gpt_neox_as_published",
        "deepseek_v3_prediction_block",
        "mixtral",
    ],
)
def test_a_trained_student_keeps_all_it_learned(name: str, tmp_path: Path) -> None:
    """Trained and saved by transformers, in today's key names, without our lineage."""
    specimen, teacher = keeper.SPECIMENS[name], keeper.folder(name)
    trained = checks.load_whole(_half(name))
    _pretend_to_train(trained)
    trained.save_pretrained(tmp_path / "student")
    old, new = len(specimen.half), len(specimen.half) + 1
    with pytest.raises(BequestError):
        bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]

    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=new, from_block=old)
    grown = checks.load_whole(tmp_path / "out").state_dict()
    learned, taught = trained.state_dict(), keeper.load(teacher).state_dict()
    assert learned.keys() < grown.keys()
    for key, value in grown.items():
        assert torch.equal(value, learned.get(key, taught[key])), key


def _pretend_to_train(model: PreTrainedModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def test_blocks_that_are_not_neighbours_need_to_be_told_where_to_go_on(tmp_path: Path) -> None:
    teacher = keeper.folder("qwen3")
    bequest.inherit(teacher, tmp_path / "student", layers="0,2")
    with pytest.raises(BequestError, match="from"):
        bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=4)
    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=4, from_block=3)
    by_hand = reference.cut_by_hand(keeper.load(teacher), [0, 2, 3, 4])
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)


def test_a_student_from_the_middle_grows_upwards(tmp_path: Path) -> None:
    teacher = keeper.folder("qwen3")
    bequest.inherit(teacher, tmp_path / "student", layers="1-2")
    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=4)
    by_hand = reference.cut_by_hand(keeper.load(teacher), [1, 2, 3, 4])
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)


def _dense_first(folder: Path) -> Path:
    """DeepSeek-V3 as published: two dense blocks in bfloat16, then experts with a float32 bias."""
    keeper.copy("deepseek_v3", folder)
    state = load_file(folder / "model.safetensors")
    for key, tensor in state.items():
        if not key.endswith("e_score_correction_bias"):
            state[key] = tensor.to(torch.bfloat16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    keeper.edit_config(folder, dtype="bfloat16")
    return folder


def test_what_a_dense_student_lacks_keeps_its_dtype(tmp_path: Path) -> None:
    teacher = _dense_first(tmp_path / "teacher")
    bequest.inherit(teacher, tmp_path / "student", layers=2)
    kinds = {raw.dtype for raw in read_folder(tmp_path / "student").values()}
    assert kinds == {"BF16"}
    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=5)
    assert read_folder(tmp_path / "out") == read_folder(teacher)


def test_what_a_converted_student_lacks_is_converted(tmp_path: Path) -> None:
    """But for what transformers holds in float32 in a bfloat16 model."""
    teacher = keeper.folder("deepseek_v3")
    bequest.inherit(teacher, tmp_path / "student", layers=2, dtype="bfloat16")
    bequest.inherit(teacher, tmp_path / "whole", layers=5, dtype="bfloat16")
    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=5)
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")
    mixed = _dense_first(tmp_path / "mixed")
    bequest.inherit(mixed, tmp_path / "small", layers=2)
    bequest.grow(tmp_path / "small", mixed, tmp_path / "wide", layers=5, dtype="float32")
    assert {raw.dtype for raw in read_folder(tmp_path / "wide").values()} == {"F32"}


def test_shards_and_old_formats_on_either_side(tmp_path: Path) -> None:
    bequest.inherit(
        keeper.folder("llama", "bin"), tmp_path / "student", layers=2, max_shard_size=20_000
    )
    bequest.grow(
        tmp_path / "student",
        keeper.folder("llama", "sharded"),
        tmp_path / "out",
        layers=4,
        max_shard_size=30_000,
    )
    assert read_folder(tmp_path / "out") == read_folder(keeper.folder("llama"))


@pytest.mark.parametrize("layers", [2, 1, 0, -1, 5, 100])
def test_a_depth_that_is_no_growth_or_more_than_there_is(layers: int, tmp_path: Path) -> None:
    with pytest.raises(BequestError) as refusal:
        bequest.grow(_half("llama"), keeper.folder("llama"), tmp_path / "out", layers=layers)
    assert refusal.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("from_block", [-1, 3, 4, 99])
def test_a_start_that_leaves_too_few_blocks(from_block: int, tmp_path: Path) -> None:
    with pytest.raises(BequestError):
        bequest.grow(
            _half("llama"),
            keeper.folder("llama"),
            tmp_path / "out",
            layers=4,
            from_block=from_block,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("llama", "mistral"), ("gpt2", "gpt2_as_published"), ("qwen3", "qwen2_layer_types")],
)
def test_a_teacher_of_another_family(student: str, teacher: str, tmp_path: Path) -> None:
    """gpt2's twin has another inner width: only the shapes tell."""
    with pytest.raises(BequestError) as refusal:
        bequest.grow(
            _half(student),
            keeper.folder(teacher),
            tmp_path / "out",
            layers=len(keeper.SPECIMENS[student].half) + 1,
        )
    assert refusal.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_the_same_shape_that_computes_something_else(tmp_path: Path) -> None:
    """All tensors fit; rope, norms and windows of the new blocks would be the student's."""
    for field, value in [("rms_norm_eps", 1e-2), ("rope_theta", 123.0), ("hidden_act", "relu")]:
        teacher = keeper.copy("llama_old_config", tmp_path / "teacher")
        keeper.edit_config(teacher, **{field: value})
        with pytest.raises(BequestError):
            bequest.grow(_half("llama_old_config"), teacher, tmp_path / "out", layers=3)
        shutil.rmtree(teacher)
        assert list(tmp_path.iterdir()) == []


def test_gpt2_scaled_by_its_index_grows_only_where_blocks_keep_theirs(tmp_path: Path) -> None:
    teacher = keeper.copy("gpt2", tmp_path / "teacher")
    keeper.edit_config(teacher, scale_attn_by_inverse_layer_idx=True)
    bequest.inherit(teacher, tmp_path / "student", layers=1)
    bequest.grow(tmp_path / "student", teacher, tmp_path / "out", layers=3)
    by_hand = reference.cut_by_hand(keeper.load(teacher), range(3))
    checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)
    with pytest.raises(BequestError):
        bequest.grow(tmp_path / "student", teacher, tmp_path / "moved", layers=2, from_block=2)
