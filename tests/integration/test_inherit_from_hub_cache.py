"""A hub id without a network: what the cache holds is cut, and known by its commit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zoo import checks, keeper
from zoo.command import Outcome, environment, run
from zoo.raw import read_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache that holds `tiny/llama`: blobs, and a snapshot of symbolic links to them."""
    repository = tmp_path / "hub" / "models--tiny--llama"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(keeper.folder("llama", "sharded").iterdir())):
        shutil.copyfile(file, blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def _inherit(cache: Path, *arguments: object) -> Outcome:
    env = {**environment(), "HF_HUB_CACHE": str(cache)}
    return run("inherit", *arguments, "--layers", "0,2-2", env=env)


def test_a_cached_model_is_cut_and_its_commit_kept(cache: Path, tmp_path: Path) -> None:
    for place, revision in [
        ("a", []),
        ("b", ["--revision", "main"]),
        ("c", ["--revision", COMMIT]),
    ]:
        outcome = _inherit(cache, "tiny/llama", tmp_path / place, *revision)
        assert outcome.code == 0, outcome
        specimen = keeper.SPECIMENS["llama"]
        expected = checks.cut_tensors(specimen, keeper.folder("llama"), (0, 2))
        assert read_folder(tmp_path / place) == expected
        assert not any(path.is_symlink() for path in (tmp_path / place).iterdir())
        lineage = (tmp_path / place / "bequest.json").read_text()
        assert "tiny/llama" in lineage
        assert COMMIT in lineage
        json.loads(lineage)


@pytest.mark.parametrize("loss", ["blob", "link", "config", "unknown id", "unknown revision"])
def test_what_the_cache_lacks_is_said_in_a_sentence(loss: str, cache: Path, tmp_path: Path) -> None:
    snapshot = cache / "models--tiny--llama" / "snapshots" / COMMIT
    shard = snapshot / "model-00002-of-00003.safetensors"
    if loss == "blob":
        shard.resolve().unlink()
    if loss == "link":
        shard.unlink()
    if loss == "config":
        (snapshot / "config.json").unlink()
    source = "tiny/unknown" if loss == "unknown id" else "tiny/llama"
    revision = ["--revision", "v9"] if loss == "unknown revision" else []
    outcome = _inherit(cache, source, tmp_path / "out", *revision)
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
