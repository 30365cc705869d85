"""Lineage: what it records, and what its verification finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bequest import inherit
from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.lineage import (
    file_hash,
    header_hash,
    read_lineage,
    structure_hash,
    verify_outputs,
)
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
        ('{"schema_version": 1, "settings": {}, "inputs": 3}', "inputs"),
    ],
)
def test_a_damaged_lineage(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "bequest.json").write_text(text)
    with pytest.raises(CheckpointError, match=found):
        read_lineage(tmp_path)
