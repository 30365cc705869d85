"""What inherit refuses: one sentence, exit code 2, and nothing left beside the target."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bequest
from bequest import BequestError
from zoo import checks, keeper, reference
from zoo.refused import REFUSED


def refuse(source: Path, out: Path, **options: Any) -> str:
    """Hold a request to be refused, and return the sentence it was refused with."""
    before = snapshot(out.parent)
    with pytest.raises(BequestError) as refusal:
        bequest.inherit(source, out, **{"layers": "2", **options})
    message = str(refusal.value)
    assert refusal.value.exit_code == 2, message
    assert "\n" not in message
    assert 10 < len(message) < 600
    assert not re.search(r"Traceback|Errno|object at 0x", message), message
    assert snapshot(out.parent) == before
    return message


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, hidden ones too, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", REFUSED)
def test_a_source_that_cannot_be_cut(name: str, tmp_path: Path) -> None:
    REFUSED[name](tmp_path / "source")
    refuse(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "source" / "it-ran").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("encoder_decoder", "t5"),
        ("masked_encoder", "bert"),
        ("unknown_type", "quantum_llama"),
        ("missing_shard", "model-00002-of-00003.safetensors"),
        ("truncated_shard", "model-00003-of-00003.safetensors"),
        ("index_names_a_parent", "outside.safetensors"),
        ("remote_code", "trust"),
        ("no_config", "config.json"),
        ("a_tensor_is_missing", "model.layers.0.input_layernorm.weight"),
        ("another_shape", "model.layers.0.mlp.up_proj.weight"),
        ("a_tensor_nobody_reads", "model.layers.0.self_attn.q_norm.weight"),
    ],
)
def test_the_sentence_names_what_was_found(name: str, said: str, tmp_path: Path) -> None:
    REFUSED[name](tmp_path / "source")
    assert said in refuse(tmp_path / "source", tmp_path / "out")


NONSENSE: list[Any] = [
    *["", " ", ",", "-", "0-", "-3", "1,,2", "1,", ",1", "a", "half", "1-2-3", "1:3", "1..3"],
    *["0x2", "1e0", "2.0", "1_0", "²", "0,0", "0-2,1", "2-1", "2,1", "3-3,3", "1;2"],
    *["0", 0, -1, 5, "5", "99", "0-4", "2,9", "99999999999999999999", "0-99999999999"],
    *[[], [0, 0], [1, 0], [-1], [4], [0, 99], [True, False], [0.0, 1.0], [0.5, 1], [None]],
    *[True, 2.0, None, b"2", float("nan")],
]


@pytest.mark.parametrize("layers", NONSENSE, ids=repr)
def test_a_selection_that_is_none(layers: Any, tmp_path: Path) -> None:
    refuse(keeper.folder("llama"), tmp_path / "out", layers=layers)


def test_an_existing_target(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    assert "overwrite" in refuse(keeper.folder("llama"), out)
    refuse(keeper.folder("llama"), out / "precious")


def test_a_file_is_no_target_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a report")
    refuse(keeper.folder("llama"), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "place",
    ["source", "source/out", "source/deep/out", ".", "source/../source", "link", "link/out"],
)
def test_source_and_target_within_each_other(place: str, overwrite: bool, tmp_path: Path) -> None:
    """Overwriting the source, or a folder that holds it, would destroy what is being read."""
    keeper.copy("llama", tmp_path / "home" / "source")
    (tmp_path / "home" / "link").symlink_to("source", target_is_directory=True)
    out = tmp_path / "home" / place
    refuse(tmp_path / "home" / "source", out, overwrite=overwrite)


def test_a_target_beside_nothing(tmp_path: Path) -> None:
    """A parent that is a file cannot hold the target."""
    (tmp_path / "file").write_text("")
    refuse(keeper.folder("llama"), tmp_path / "file" / "out")


def test_gpt2_scaled_by_its_index_may_not_move_blocks(tmp_path: Path) -> None:
    keeper.copy("gpt2", tmp_path / "source")
    keeper.edit_config(tmp_path / "source", scale_attn_by_inverse_layer_idx=True)
    for layers in ["0,2", "1-3", "0-1,3"]:
        message = refuse(tmp_path / "source", tmp_path / "out", layers=layers)
        assert "scal" in message
        assert "number" in message or "index" in message


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float23"},
        {"dtype": ""},
        {"dtype": "int8"},
        {"max_shard_size": "5 bananas"},
        {"max_shard_size": 0},
        {"max_shard_size": -1},
        {"max_shard_size": ""},
        {"reinit": ["no.such.tensor"]},
        {"reinit": [""]},
    ],
    ids=repr,
)
def test_an_option_that_makes_no_sense(options: dict[str, Any], tmp_path: Path) -> None:
    refuse(keeper.folder("llama"), tmp_path / "out", **options)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    """Offline, a hub id cannot be looked up either: said, not thrown."""
    refuse(tmp_path / "nowhere", tmp_path / "out")
    for source in ["nobody/no-such-model-here", "", "a/b/c/d", "http://example.org/model", "~"]:
        refuse(source, tmp_path / "out")  # type: ignore[arg-type]


def test_a_revision_means_nothing_for_a_folder(tmp_path: Path) -> None:
    refuse(keeper.folder("llama"), tmp_path / "out", revision="main")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [_pipe, _folder])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_no_file(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    """A pipe would be waited on for ever."""
    source = keeper.copy("llama", tmp_path / "source")
    (source / name).unlink()
    make(source / name)
    with pytest.raises(BequestError) as refusal:
        bequest.inherit(source, tmp_path / "out", layers="2")
    assert refusal.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


ODD_FIELDS: list[dict[str, Any]] = [
    *({"model_type": value} for value in (["llama"], {}, 3, True, "", "LLAMA", "llama ", None)),
    *({"num_hidden_layers": value} for value in ("4", None, 4.0, 0, -1, True, 10**9, [4], 3, 5)),
    *({"quantization_config": value} for value in ("fp8", [], {}, 8, True, None)),
    *({"auto_map": value} for value in ([], {}, "x.y", 3, None)),
    *({"architectures": value} for value in (3, [], ["Nothing"], "LlamaForCausalLM", [None], None)),
    *({"layer_types": value} for value in ("full", [], {}, 3, ["full_attention"] * 3, [1] * 4)),
    *({"dtype": value} for value in ("float23", 3, [], None, "int8", "auto")),
    *({"torch_dtype": value} for value in ("float23", 3, [], "torch.float32")),
    *({"hidden_size": value} for value in ("big", 0, -32, 33, 2**70, None)),
    *({"tie_word_embeddings": value} for value in ("no", 3, None, True)),
    *({"rope_parameters": value} for value in (3, [], "default", {"rope_type": "warped"})),
    *({"is_encoder_decoder": value} for value in ("x", 1, [])),
    *({"num_attention_heads": value} for value in (0, 5, -4, "4")),
    *({"eos_token_id": value} for value in ([1, 2, 3, 4], "x", -1, 10**9)),
    *({"per_layer_config": value} for value in ({"3": {"skip": ["mlp"]}}, [], 3, {"x": 1})),
    {"n_layer": 4},
    {"weird": float("nan")},
    {"weird": [1, 2, 3, 4]},
    {"weird": {"deep": {"deep": 1}}},
]


@pytest.mark.parametrize("fields", ODD_FIELDS, ids=repr)
def test_odd_values_in_the_configuration(fields: dict[str, Any], tmp_path: Path) -> None:
    """Refused in a sentence, or cut to what the source is when transformers loads it."""
    source = keeper.copy("llama", tmp_path / "source")
    keeper.edit_config(source, **fields)
    try:
        bequest.inherit(source, tmp_path / "out", layers="0,2")
    except BequestError as refusal:
        assert "\n" not in str(refusal)
        assert refusal.exit_code == 2
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
    else:
        by_hand = reference.cut_by_hand(keeper.load(source), (0, 2))
        checks.assert_behaves(checks.load_whole(tmp_path / "out"), by_hand)
