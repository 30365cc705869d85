"""What an image run reads before it starts: tests that test, and classes that are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from safetensors.torch import load_file, save_file

from bequest.errors import InputError
from bequest.evaluation.image_data import class_names, labels_of
from bequest.training.vision_config import TASK, ImageConfig, ImageData, ImageRetention
from bequest.training.vision_plan import ImagePlan, plan_images
from bequest.training.vision_publish import on_retention
from tests.training.tiny_images import NAMES, pictures, write_folder, write_model, write_parquet


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_parquet(folder / "all.parquet", 24, seed=0)
    write_model(folder / "model", "vit", classes=3)
    return folder


def plan_of(files: Path, data: ImageData | None = None, **changes: Any) -> ImagePlan:
    asked: dict[str, Any] = {
        "task": TASK,
        "model": str(files / "model"),
        "out": str(files / "out"),
        "data": data or ImageData(train=str(files / "all.parquet")),
        "training": {"use_cpu": True},
        "head_training": {"use_cpu": True},
    }
    return plan_images(ImageConfig(**{**asked, **changes}))


def test_training_images_are_no_test(files: Path) -> None:
    source = str(files / "all.parquet")
    with pytest.raises(
        InputError, match=r"split is 'test', but data\.eval .* has train \(\d+ rows\); choose"
    ):
        plan_of(files, ImageData(train=source, eval_split="test"))
    for data in (
        ImageData(train=source, eval_split="all"),
        ImageData(train=source, eval=source),
        ImageData(train=source, split="train[:9]", eval_split="train[:9]"),
    ):
        with pytest.raises(InputError, match="the very images that are trained on"):
            plan_of(files, data)
    plan = plan_of(files, ImageData(train=source, split="train[:16]", eval_split="train[16:]"))
    assert plan.test is not None
    both = [*labels_of(plan.train), *labels_of(plan.test)]
    assert both == pictures(24, 0)[1] and len(plan.train) == 16


def test_the_test_images_are_not_cut_as_the_training_images(files: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "test", 9, 1)
    data = ImageData(
        train=str(files / "all.parquet"), split="train[:4]", eval=str(tmp_path / "test")
    )
    plan = plan_of(files, data)
    assert plan.test is not None and len(plan.test) == 9


def named(folder: Path, names: list[str]) -> Path:
    """Say in a model's configuration what its classes are called."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_retention_goes_by_names(tmp_path: Path, files: Path) -> None:
    """The same classifier, its classes in another order, retains the same."""
    order, found = [2, 0, 1], []
    write_folder(tmp_path / "before", 20, 3)
    asked = ImageRetention(data=str(tmp_path / "before"))
    for kind in ("one", "other"):
        model = named(write_model(tmp_path / kind, "vit", 3), NAMES)
        state = load_file(model / "model.safetensors")
        state["classifier.weight"] = state["classifier.weight"] * 100
        if kind == "other":
            named(model, [NAMES[number] for number in order])
            for key in ("classifier.weight", "classifier.bias"):
                state[key] = state[key][order].contiguous()
        save_file(state, model / "model.safetensors", {"format": "pt"})
        plan = plan_of(files, model=str(model), retention=asked)
        assert plan.retention is not None and class_names(plan.retention) == NAMES
        found.append(on_retention(plan, plan.start))
        # By hand, by name.
        with torch.no_grad():
            best = plan.read(plan.start, plan.retention).argmax(dim=1).tolist()
        own = [plan.start.network.config.id2label[number] for number in best]
        wanted = [NAMES[number] for number in labels_of(plan.retention)]
        np.testing.assert_array_equal(found[-1], [a == b for a, b in zip(own, wanted, strict=True)])
    np.testing.assert_array_equal(*found)
    assert 0 < found[0].sum() < 20


def test_groups_may_be_named_and_are_judged(tmp_path: Path, files: Path) -> None:
    model = str(named(write_model(tmp_path / "model", "vit", 3), ["crow", "oak", "gull"]))
    groups = tmp_path / "groups.json"
    asked = ImageRetention(data=str(files / "all.parquet"), groups=str(groups))
    groups.write_text(json.dumps({"red": ["crow", 2], "blue": ["oak"], "green": [1]}))
    plan = plan_of(files, model=model, retention=asked)
    assert plan.classes is not None and plan.classes.numbers == [[1], [1], [0, 2]]
    for content, words in (
        ({"red": 0, "blue": [1], "green": [2]}, "must be an object from each class"),
        ([[0], [1], [2]], "must be an object from each class"),
        ({"red": ["elk"], "blue": [1], "green": [2]}, "names 'elk', which the original head"),
        ({"red": [0]}, "the classes of retention.data differ by 'blue'"),
    ):
        groups.write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"retention\.groups.* {words}"):
            plan_of(files, model=model, retention=asked)


@pytest.mark.parametrize("role", ["data.train", "data.eval", "retention.data"])
def test_images_without_labels_are_refused_wherever_they_stand(
    files: Path, tmp_path: Path, role: str
) -> None:
    rows = Dataset.from_dict(
        {"image": pictures(3, 0)[0], "label": [0, -1, 1]},
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}),
    )
    bad, good = str(tmp_path / "bad.parquet"), str(files / "all.parquet")
    rows.to_parquet(bad)
    data = ImageData(
        train=bad if role == "data.train" else good, eval=bad if role == "data.eval" else None
    )
    retention = ImageRetention(data=bad if role == "retention.data" else None)
    with pytest.raises(InputError, match=rf"^{role} .*bad\.parquet has 1 images without a label"):
        plan_of(files, data, retention=retention)
