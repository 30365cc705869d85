"""How `make assets` behaves on a broken-off run, a damaged file and a missing program."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from assets import brown
from assets.bring import Asset, AssetError, Package, bring

CONTENT = b"what the registry gave"


def make_asset(root: Path, *, registry: str = "pypi", recipe: int = 1) -> Asset:
    """An asset whose package has already been downloaded, so that no registry is asked."""
    package = Package(
        registry=registry,
        name="no-such-package-of-bequest",
        version="0.0.1",
        file_name="package.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    (root / "downloads").mkdir(parents=True, exist_ok=True)
    (root / "downloads" / "package.bin").write_bytes(CONTENT)

    def build(brought: Path, folder: Path) -> None:
        (folder / "made.txt").write_bytes(brought.read_bytes() + b"!")

    return Asset(name="thing", package=package, recipe=recipe, build=build)


def test_made_once(tmp_path: Path) -> None:
    asset = make_asset(tmp_path)
    made = bring(asset, tmp_path) / "made.txt"
    assert made.read_bytes() == CONTENT + b"!"
    before = made.stat().st_mtime_ns
    bring(asset, tmp_path)
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut", "deleted", "folder", "older recipe"])
def test_made_again_when_it_is_not_whole(tmp_path: Path, damage: str) -> None:
    made = bring(make_asset(tmp_path), tmp_path) / "made.txt"
    if damage == "cut":
        made.write_bytes(b"")
    elif damage == "deleted":
        made.unlink()
    elif damage == "folder":
        shutil.rmtree(made.parent)
    recipe = 2 if damage == "older recipe" else 1
    bring(make_asset(tmp_path, recipe=recipe), tmp_path)
    assert made.read_bytes() == CONTENT + b"!"
    assert json.loads((tmp_path / "thing.json").read_text())["recipe"] == recipe


def test_a_build_that_dies_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def die(brought: Path, folder: Path) -> None:
        (folder / "made.txt").write_bytes(b"half")
        raise KeyboardInterrupt

    asset = make_asset(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bring(Asset(name="thing", package=asset.package, recipe=1, build=die), tmp_path)
    assert not (tmp_path / "thing").exists()
    assert (bring(asset, tmp_path) / "made.txt").read_bytes() == CONTENT + b"!"
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".lock", "downloads", "thing", "thing.json"]


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset(tmp_path, registry="npm")
    (tmp_path / "downloads" / "package.bin").write_bytes(b"damaged")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=r"npm is not installed .* install Node\.js"):
        bring(asset, tmp_path)
    assert not (tmp_path / "thing").exists()


def test_a_disk_that_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    asset = make_asset(tmp_path)
    with pytest.raises(AssetError, match=r"thing cannot be written under .*file"):
        bring(asset, tmp_path / "file")


TAGGED = """

	``/`` Where/wrb (/( is/bez )/) he/pps ''/'' ?/. ?/.
She/pps said/vbd ,/, '/' no/rb '/' ;/. ;/. 1/2/cd inch/nn or/cc 3/16''/nn ''/'' ./.


	f/nn **zg/nn $5/nns --/-- gone/vbn ./.
"""
PRINTED = """\
"Where (is) he"? She said, 'no'; 1/2 inch or 3/16".

f $5 -- gone."""


def test_brown_reads_like_print() -> None:
    assert brown.plain_text(TAGGED) == PRINTED


def test_brown_split_never_moves() -> None:
    ids = [f"c{genre}{number:02}" for genre in "abcdefghjklmnpr" for number in range(1, 11)]
    held_out = [text_id for text_id in ids if brown.is_held_out(text_id)]
    assert " ".join(held_out) == "cc05 cf02 cj04 ck02 cl09 cm06 cm10 cn09 cp01 cp04 cp09 cr10"


@pytest.mark.assets
def test_the_brown_corpus_is_whole(brown_folder: Path) -> None:
    rows = {}
    for part in ("train", "held_out"):
        lines = (brown_folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        rows[part] = [json.loads(line) for line in lines]
    assert len(rows["train"]) + len(rows["held_out"]) == 500
    assert len({row["genre"] for row in rows["train"]}) == 15
    for part, found in rows.items():
        assert all(set(row) == {"id", "genre", "text"} for row in found)
        assert all(brown.is_held_out(row["id"]) == (part == "held_out") for row in found)
        assert all(10_000 < len(row["text"]) < 15_000 for row in found)
