"""Lineage: what it records, and what its verification finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bequest import inherit
from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.companions import companion_files
from bequest.checkpoints.lineage import (
    file_hash,
    header_hash,
    read_lineage,
    structure_hash,
)
from bequest.checkpoints.lineage_check import verify_outputs
from bequest.cli.main import main
from bequest.errors import CheckpointError, InputError
from zoo import keeper


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lineage") / "out"
    inherit(keeper.folder("llama"), out, layers="0-0,2-2", hash=True)
    return out


def test_it_says_what_was_done(made: Path) -> None:
    record = read_lineage(made)
    assert record["operation"] == "inherit"
    assert record["settings"]["source_blocks"] == [0, 2]
    (source,) = record["inputs"]
    assert source["name"] == str(keeper.folder("llama").resolve())
    weights = next(file for file in source["files"] if file["name"] == "model.safetensors")
    path = keeper.folder("llama") / "model.safetensors"
    assert weights["size"] == path.stat().st_size
    assert weights["header_sha256"] == header_hash(path)
    assert weights["sha256"] == file_hash(path)
    recorded = {file["name"] for file in record["outputs"]}
    assert recorded == {path.name for path in made.iterdir()} - {"bequest.json"}


def test_the_lineage_of_an_input_comes_along(made: Path, tmp_path: Path) -> None:
    inherit(made, tmp_path / "out", layers=1)
    (source,) = read_lineage(tmp_path / "out")["inputs"]
    assert source["lineage"] == read_lineage(made)


def test_structure_does_not_change_with_shards(made: Path, tmp_path: Path) -> None:
    inherit(keeper.folder("llama"), tmp_path / "out", layers="0-0,2-2", max_shard_size=2000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    one, many = open_checkpoint(made), open_checkpoint(tmp_path / "out")
    assert structure_hash(one.tensors.values()) == structure_hash(many.tensors.values())


@pytest.mark.parametrize("full_hash", [False, True])
def test_what_verification_finds(made: Path, full_hash: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)

    def states() -> dict[str, str]:
        checks = verify_outputs(out, read_lineage(out), full_hash=full_hash)
        return {check.name: check.state for check in checks if not check.intact}

    assert states() == {}
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    assert states() == ({"model.safetensors": "other contents"} if full_hash else {})
    weights[12] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    assert states() == {"model.safetensors": "another header"}
    (out / "model.safetensors").write_bytes(weights[:-1])
    assert "bytes instead of" in states()["model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    text = json.dumps(config | {"vocab_size": config["vocab_size"] + 1}, indent=2) + "\n"
    (out / "config.json").write_text(text)
    assert "config.json" in states()
    (out / "model.safetensors").unlink()
    assert states()["model.safetensors"] == "missing"


def test_a_hash_that_was_never_taken_cannot_be_compared(tmp_path: Path) -> None:
    inherit(keeper.folder("llama"), tmp_path / "out", layers=1)
    with pytest.raises(InputError, match="--hash"):
        verify_outputs(tmp_path / "out", read_lineage(tmp_path / "out"), full_hash=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", "schema_version"),
        ("[]", "list"),
        ("{", "damaged"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1, "operation": "x", "settings": {}, "inputs": 3}', "inputs"),
        ({"outputs": 3}, "outputs"),
        ({"outputs": [{}]}, "outputs has no name"),
        ({"outputs": [{"name": "a"}]}, "no size"),
        ({"outputs": [{"name": "../a", "size": 1}]}, "'../a'"),
        ({"outputs": [{"name": "a/../../b", "size": 1}]}, "no file of its folder"),
        ({"outputs": [{"name": "/etc/hostname", "size": 1}]}, "'/etc/hostname'"),
        ({"outputs": [{"name": "", "size": 1}]}, "no file of its folder"),
        ({"operation": None}, "operation"),
        ({"inputs": [3]}, "inputs is no object"),
        ({"inputs": [{"role": "source"}]}, "inputs has no name"),
        ({"inputs": [{"role": "source", "name": "a", "lineage": {}}]}, "operation"),
        ({"settings": {"source_blocks": ["a"]}}, "source_blocks"),
    ],
)
def test_a_damaged_lineage(text: str | dict[str, Any], found: str, tmp_path: Path) -> None:
    if isinstance(text, dict):
        sound = {"schema_version": 1, "operation": "x", "settings": {}, "inputs": [], "outputs": []}
        text = json.dumps(sound | text)
    (tmp_path / "bequest.json").write_text(text)
    with pytest.raises(CheckpointError, match=found):
        read_lineage(tmp_path)


def test_what_is_in_a_folder_of_its_own_is_found_again(tmp_path: Path) -> None:
    source = keeper.copy("llama", tmp_path / "source")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    inherit(source, tmp_path / "out", layers=1)
    record = read_lineage(tmp_path / "out")
    assert "additional_chat_templates/rag.jinja" in {file["name"] for file in record["outputs"]}
    assert all(check.intact for check in verify_outputs(tmp_path / "out", record, full_hash=False))


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_config.json"])
def test_what_would_be_loaded_in_place_of_the_shards(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inherit(keeper.folder("llama"), out, layers=2, max_shard_size=20_000)
    assert not (out / name).exists()
    shutil.copy(keeper.folder("llama") / "model.safetensors", out / name)
    checks = verify_outputs(out, read_lineage(out), full_hash=False)
    assert [(c.name, c.state) for c in checks if not c.intact] == [(name, "added")]


def test_companions_from_elsewhere_are_not_copied(tmp_path: Path) -> None:
    source = keeper.copy("llama", tmp_path / "source")
    (tmp_path / "private.json").write_text("a secret")
    (source / "inside.txt").write_text("mine")
    (source / "merges.txt").symlink_to("inside.txt")
    assert Path("merges.txt") in companion_files(source)
    (source / "vocab.json").symlink_to("../private.json")
    with pytest.raises(CheckpointError, match="is a symbolic link out of"):
        inherit(source, tmp_path / "out", layers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private.json", "source"]
    # A folder named blobs is not the hub cache's unless it lies where the hub cache has it.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "private.json").rename(tmp_path / "blobs" / "private.json")
    (source / "vocab.json").unlink()
    (source / "vocab.json").symlink_to("../blobs/private.json")
    with pytest.raises(CheckpointError, match="symbolic link"):
        companion_files(source)


def test_control_characters_are_written_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    record = json.loads((out / "bequest.json").read_text())
    (out / "bequest.json").write_text(json.dumps(record | {"command": "bequest \x1b[2J\r\nsafe"}))
    assert main(["lineage", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\r" not in printed
    assert r"bequest \x1b[2J\r\nsafe" in printed
