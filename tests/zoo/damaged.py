"""Checkpoints whose files are damaged, hostile, or contradict one another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from zoo import keeper


def truncated(target: Path) -> None:
    """The one file lost its last bytes."""
    keeper.copy("llama", target)
    _shorten(target / "model.safetensors", 100)


def truncated_header(target: Path) -> None:
    """The file ends within its header."""
    keeper.copy("llama", target)
    (target / "model.safetensors").write_bytes((target / "model.safetensors").read_bytes()[:200])


def empty_file(target: Path) -> None:
    """A download that never began."""
    keeper.copy("llama", target)
    (target / "model.safetensors").write_bytes(b"")


def git_lfs_pointer(target: Path) -> None:
    """A clone without Git LFS: three lines of text in place of the tensors."""
    keeper.copy("llama", target)
    (target / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 52428800\n"
    )


def truncated_bin(target: Path) -> None:
    """A legacy file cut off."""
    keeper.copy("llama", target, "bin")
    _shorten(target / "pytorch_model.bin", 5000)


def truncated_legacy_bin(target: Path) -> None:
    """A legacy file without a zip's directory, cut off in its last tensor."""
    keeper.copy("llama", target, "bin_legacy")
    _shorten(target / "pytorch_model.bin", 100)


def _shorten(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.mark), "w"))


def hostile_pickle(target: Path) -> None:
    """A .bin that writes a file when it is unpickled without care."""
    keeper.copy("llama", target)
    (target / "model.safetensors").unlink()
    torch.save({"model.norm.weight": _Payload(target / "it-ran")}, target / "pytorch_model.bin")


def hostile_legacy_pickle(target: Path) -> None:
    """The same in the format without a zip."""
    hostile_pickle(target)
    torch.save(
        {"model.norm.weight": _Payload(target / "it-ran")},
        target / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )


def missing_shard(target: Path) -> None:
    """The index names three shards; two are there."""
    keeper.copy("llama", target, "sharded")
    (target / "model-00002-of-00003.safetensors").unlink()


def truncated_shard(target: Path) -> None:
    """One shard lost its last bytes."""
    keeper.copy("llama", target, "sharded")
    _shorten(target / "model-00003-of-00003.safetensors", 4)


def dangling_shard(target: Path) -> None:
    """A hub cache whose blob was deleted."""
    missing_shard(target)
    (target / "model-00002-of-00003.safetensors").symlink_to(target / "blobs" / "gone")


def _edit_index(target: Path, edit: Callable[[dict[str, str]], None]) -> None:
    keeper.copy("llama", target, "sharded")
    path = target / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def _move_shard_out(target: Path, name: str) -> None:
    """The file is there, so that only the name gives a reason to refuse."""

    def edit(weight_map: dict[str, str]) -> None:
        for key, file in weight_map.items():
            if file == "model-00002-of-00003.safetensors":
                weight_map[key] = name

    _edit_index(target, edit)
    outside = target / name
    outside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(target / "model-00002-of-00003.safetensors", outside)


def index_names_a_parent(target: Path) -> None:
    """`../` in the index."""
    _move_shard_out(target, "../outside.safetensors")


def index_names_an_absolute_path(target: Path) -> None:
    """`/...` in the index."""
    _move_shard_out(target, str(target.parent / "outside.safetensors"))


def index_names_a_subfolder(target: Path) -> None:
    """A separator in the index."""
    _move_shard_out(target, "deep/shard.safetensors")


def index_without_a_tensor(target: Path) -> None:
    """One tensor of a block is named nowhere, though its shard holds it."""
    _edit_index(target, lambda names: names.pop("model.layers.1.mlp.up_proj.weight") and None)


def index_with_a_tensor_too_many(target: Path) -> None:
    """The index promises a tensor that its shard does not hold."""
    _edit_index(
        target,
        lambda names: names.update(
            {"model.layers.1.more.weight": "model-00001-of-00003.safetensors"}
        ),
    )


def index_points_to_the_wrong_shard(target: Path) -> None:
    """A tensor that another shard holds."""
    _edit_index(
        target,
        lambda names: names.update(
            {"model.norm.weight": "model-00001-of-00003.safetensors"}
            if names["model.norm.weight"] != "model-00001-of-00003.safetensors"
            else {"model.norm.weight": "model-00002-of-00003.safetensors"}
        ),
    )


def index_is_nonsense(target: Path) -> None:
    """An index without a weight map."""
    keeper.copy("llama", target, "sharded")
    (target / "model.safetensors.index.json").write_text('{"metadata": {}}')


def index_maps_to_a_number(target: Path) -> None:
    """A weight map whose values are no names."""
    _edit_index(target, lambda names: names.update({"model.norm.weight": 3}))  # type: ignore[dict-item]


def a_block_is_missing(target: Path) -> None:
    """Four blocks in the configuration, three in the file."""
    keeper.copy("llama", target)
    state = load_file(target / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("model.layers.3.")}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})


def a_tensor_is_missing(target: Path) -> None:
    """One tensor of one block is not there; transformers would draw it at random."""
    keeper.copy("llama", target)
    state = load_file(target / "model.safetensors")
    del state["model.layers.0.input_layernorm.weight"]
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def no_final_norm(target: Path) -> None:
    """A tensor that belongs to no block is missing."""
    keeper.copy("llama", target)
    state = load_file(target / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def another_shape(target: Path) -> None:
    """A tensor that does not fit the configuration."""
    keeper.copy("llama", target)
    state = load_file(target / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(49, 32)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def a_tensor_nobody_reads(target: Path) -> None:
    """Something the architecture has no place for, so it may be another model than it says."""
    keeper.copy("llama", target)
    state = load_file(target / "model.safetensors")
    state["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


DAMAGED: list[Callable[[Path], None]] = [
    truncated,
    truncated_header,
    empty_file,
    git_lfs_pointer,
    truncated_bin,
    truncated_legacy_bin,
    hostile_pickle,
    hostile_legacy_pickle,
    missing_shard,
    truncated_shard,
    dangling_shard,
    index_names_a_parent,
    index_names_an_absolute_path,
    index_names_a_subfolder,
    index_without_a_tensor,
    index_with_a_tensor_too_many,
    index_points_to_the_wrong_shard,
    index_is_nonsense,
    index_maps_to_a_number,
    a_block_is_missing,
    a_tensor_is_missing,
    no_final_norm,
    another_shape,
    a_tensor_nobody_reads,
]
"""Each makes the folder it is given."""
