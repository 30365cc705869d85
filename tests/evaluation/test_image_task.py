"""Evaluations of tiny image classifiers, against each image classified by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

import bequest
from bequest.checkpoints.model_identity import ORIGINAL
from bequest.cli.main import main
from bequest.errors import InputError
from bequest.evaluation.image_task import ImageTask
from training.tiny_images import NAMES, pictures, write_folder, write_model, write_parquet
from training.tiny_sft import save_model

COUNT = 40
GROUPS = {"blue": [0, 3], "green": [4], "red": [1, 2]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_parquet(folder / "images.parquet", COUNT, seed=1)
    undecided(write_model(folder / "before", "resnet", 5))
    undecided(write_model(folder / "after", "vit", 5))
    (folder / "map.json").write_text(json.dumps(GROUPS))
    return folder


def undecided(folder: Path) -> Path:
    """Shift a random model's logits so that no class is always the best one, and return it."""
    network = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(images=pictures(COUNT, 7)[0], return_tensors="pt")["pixel_values"]
    head = next(m for m in reversed(list(network.modules())) if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        head.weight.mul_(100)
        head.bias.sub_(network(pixel_values=pixels).logits.mean(0))
    network.save_pretrained(folder)
    return folder


def name_classes(folder: Path, names: list[str]) -> None:
    """Say in a model's configuration what its classes are called."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    file.write_text(json.dumps(config))


def by_hand(model: Path, groups: dict[str, list[int]]) -> list[float]:
    """Whether each image is right, one at a time and in float64."""
    network = AutoModelForImageClassification.from_pretrained(model).eval().double()
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    found = []
    for image, label in zip(*pictures(COUNT, 1), strict=True):
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"].double()
        with torch.no_grad():
            shares = torch.softmax(network(pixel_values=pixels).logits[0], 0).tolist()
        totals = {name: sum(shares[number] for number in groups[name]) for name in NAMES}
        found.append(float(max(totals, key=lambda name: totals[name]) == NAMES[label]))
    return found


def run(here: Path, **options: Any) -> Any:
    asked = {"images": (str(here / "images.parquet"),), "image_classes": (str(here / "map.json"),)}
    return bequest.evaluate(here / "before", here / "after", **(asked | options))


def test_images_are_right_as_by_hand(here: Path, tmp_path: Path) -> None:
    found = run(here, out=tmp_path / "out", target=())
    (one,) = found.comparisons
    before, after = by_hand(here / "before", GROUPS), by_hand(here / "after", GROUPS)
    assert (one.task, one.metric, one.num_items) == ("images.parquet", "accuracy", COUNT)
    kept = found.scores["images.parquet"]
    assert [list(one.values) for one in kept] == [before, after] and before != after
    gained = sum(new > old for old, new in zip(before, after, strict=True))
    lost = sum(new < old for old, new in zip(before, after, strict=True))
    assert one.changed == (gained, lost) and gained and lost
    titles = [section.title for section in found.sections]
    assert titles[:4] == ["Gains and losses", "Gains by task", "Items that changed", "Models"]
    # The report draws it, and the judged model's card has the same numbers.
    (here / "after" / "README.md").write_text("# after\n")
    words = [
        str(tmp_path / "out"),
        "--out",
        str(tmp_path / "r.html"),
        "--card",
        str(here / "after"),
    ]
    assert main(["report", *words, "--quiet"]) == 0
    assert "Gains by task" in (tmp_path / "r.html").read_text(encoding="utf-8")
    (model,) = ModelCard.load(here / "after" / "README.md").data.to_dict()["model-index"]
    (told,) = model["results"]
    assert told["task"]["type"] == "image-classification"
    assert told["metrics"][0]["value"] == pytest.approx(one.after)


def test_the_command(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(here / "before"), str(here / "after")]
    words += ["--images", str(here / "images.parquet"), "--image-classes", str(here / "map.json")]
    assert main([*words, "--dry-run"]) == 0
    assert "to compute" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "after: images.parquet: accuracy" in told and "results.json" in told
    texts = ["--texts", str(here / "map.json")]
    assert main([*words, *texts, "--out", str(tmp_path / "two")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_there_is_not_computed_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = ImageTask._found

    def counting(self: ImageTask, model: Any, starts: Any, *rest: Any) -> Any:
        for number, pair in enumerate(original(self, model, starts, *rest)):
            if len(read) == 3:
                read.append(-1)
                raise KeyboardInterrupt
            read.append(list(starts)[number])
            yield pair

    monkeypatch.setattr(ImageTask, "_found", counting)
    options = {"out": tmp_path / "out", "batch_size": "8"}
    with pytest.raises(KeyboardInterrupt):
        run(here, **options)
    # Five batches of eight: three are kept, and only the others are read again.
    found = run(here, **options)
    assert read == [0, 8, 16, -1, 24, 32, 0, 8, 16, 24, 32]
    again = run(here, **options)
    assert len(read) == 11 and again.comparisons == found.comparisons
    assert found.comparisons == run(here, batch_size="7").comparisons
    assert not list((tmp_path / "out").rglob("*.unfinished"))


def test_classes_go_by_name_whatever_their_order(here: Path, tmp_path: Path) -> None:
    """The same classifier with its classes in another order is the same classifier."""
    one, other = (undecided(write_model(tmp_path / n, "vit", 3)) for n in ("one", "other"))
    name_classes(one, NAMES)
    order = [2, 0, 1]
    name_classes(other, [NAMES[number] for number in order])
    state = load_file(other / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = state[key][order].contiguous()
    save_file(state, other / "model.safetensors", {"format": "pt"})
    write_folder(tmp_path / "folder", 20, 3)
    options = {"images": [tmp_path / "folder"], "image_split": "train"}
    (found,) = bequest.evaluate(one, other, **options).comparisons
    assert (found.changed, found.num_items) == ((0, 0), 20)
    named = tmp_path / "named.json"
    named.write_text(json.dumps({name: [name] for name in NAMES}))
    again = bequest.evaluate(one, other, **options, image_classes=[str(named)])
    assert again.comparisons[0].changed == (0, 0) and again.comparisons[0].before == found.before


def test_the_original_head_is_put_back(here: Path, tmp_path: Path) -> None:
    """Fine-tuned for two classes with other running statistics, but with the old ones beside it."""
    tuned = write_model(tmp_path / "tuned", "resnet", 2)
    start, state = load_file(here / "before" / "model.safetensors"), {}
    for key, value in load_file(tuned / "model.safetensors").items():
        state[key] = value if "classifier" in key else start[key]
        if "running_mean" in key:
            state[key] = state[key] + 3
    save_file(state, tuned / "model.safetensors", {"format": "pt"})
    kept = {key: value for key, value in start.items() if "classifier" in key or "running" in key}
    save_file(kept, tuned / ORIGINAL)
    options = {
        "images": (str(here / "images.parquet"),),
        "image_classes": (str(here / "map.json"),),
    }
    with pytest.raises(InputError, match=r"model tuned: group 0 holds 3; .*--original-head"):
        bequest.evaluate(here / "before", tuned, **options)
    (found,) = bequest.evaluate(here / "before", tuned, **options, original_head=True).comparisons
    assert found.changed == (0, 0)
    assert found.before == np.mean(by_hand(here / "before", GROUPS))


def test_a_limit_takes_images_of_every_class(here: Path, tmp_path: Path) -> None:
    """Folders are read class by class; the first images would be of one."""
    write_folder(tmp_path / "sorted", 30, 5)
    task = ImageTask(
        str(tmp_path / "sorted"),
        split="train",
        image="image",
        label="label",
        groups=(),
        limit=9,
        batch_size=4,
    )
    assert task.num_items == 9 and set(task._labels) == {0, 1, 2}


def test_wrong_requests_are_one_sentence(here: Path, tmp_path: Path) -> None:
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"text": "one"}\n')
    other, few = tmp_path / "other.json", tmp_path / "few.json"
    other.write_text(json.dumps({"blue": [0], "green": [1]}))
    few.write_text(json.dumps({"blue": 0}))
    for options, words in (
        ({"texts": [texts]}, "images are read by image classifiers and texts by language models"),
        ({"images": ()}, "name what to evaluate on"),
        ({"images": (), "texts": [texts]}, "image_classes is given without images"),
        ({"image_classes": ()}, r"images .* has 3 classes, such as 'blue', and model before 5"),
        ({"image_classes": (str(other),)}, "and the classes of images.parquet differ by 'red'"),
        ({"image_classes": (str(few),)}, "must be an object"),
        ({"image_classes": ("none.json",)}, "none.json cannot be read"),
        ({"image_classes": str(other)}, "image_classes must be a sequence"),
        ({"image_column": "picture"}, "name the column of its images with image_column"),
        ({"images": ("none.parquet",)}, "images none.parquet"),
    ):
        with pytest.raises(InputError, match=words):
            run(here, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_models_must_be_of_the_kind_that_is_asked_for(here: Path, tmp_path: Path) -> None:
    language = save_model(tmp_path / "language")
    images = {"images": (str(here / "images.parquet"),)}
    with pytest.raises(InputError, match="language is no image classifier"):
        bequest.evaluate(language, here / "after", **images)
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"text": "one"}\n')
    with pytest.raises(InputError, match="before is no causal language model"):
        bequest.evaluate(here / "before", here / "after", texts=texts)
    bare = write_model(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"bare has no preprocessor_config\.json"):
        bequest.evaluate(here / "before", bare, **images)
