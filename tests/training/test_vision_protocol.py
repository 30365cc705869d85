"""FLOW's protocol on images, against its parts done by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForImageClassification

from bequest.checkpoints.model_identity import ORIGINAL
from bequest.errors import InputError
from bequest.evaluation.image_data import class_names, labels_of, read_images
from bequest.training import vision_protocol
from bequest.training.method import MethodConfig
from bequest.training.vision_config import TASK, ImageConfig, ImageData, ImageRetention
from bequest.training.vision_data import ImageBatches
from bequest.training.vision_model import blended, restored, state_hash
from bequest.training.vision_plan import plan_images
from bequest.training.vision_protocol import run_stages
from bequest.training.vision_publish import finetune_images, on_retention
from tests.training.tiny_images import (
    own_network,
    pictures,
    write_folder,
    write_model,
    write_parquet,
)

TRAINING = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "use_cpu": True}
TRAINING |= {"learning_rate": 0.05}
PROBE = MethodConfig(linear_probe=True)
HEAD = {"num_train_epochs": 3, "use_cpu": True, "learning_rate": 0.3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_parquet(folder / "train.parquet", 48, seed=0)
    write_parquet(folder / "test.parquet", 30, seed=1)
    write_model(folder / "resnet")
    return folder


def config(files: Path, out: Path, **changes: Any) -> ImageConfig:
    asked: dict[str, Any] = {
        "task": TASK,
        "model": str(files / "resnet"),
        "out": str(out),
        "data": ImageData(
            train=str(files / "train.parquet"),
            eval=str(files / "test.parquet"),
            eval_split="test",
        ),
        "training": TRAINING,
        "head_training": HEAD,
    }
    return ImageConfig(**{**asked, **changes})


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return state_hash(one) == state_hash(two)


def test_the_probe_leaves_the_body_and_gives_the_temperature(files: Path, tmp_path: Path) -> None:
    plan = plan_images(config(files, tmp_path / "out", method=PROBE, training={}))
    stages = run_stages(plan)
    before, after = plan.start.state_dict(), stages.probe.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if not plan.start.is_of_head(k))
    with torch.no_grad():
        batch = ImageBatches(plan.processor)([plan.train[i] for i in range(len(plan.train))])
        logits = stages.probe(batch["pixel_values"])["logits"].double()
        losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
    assert stages.temperature == pytest.approx(float(np.median(losses.numpy())), rel=1e-5)
    assert stages.temperature < np.log(3)  # It has learned something.
    assert stages.final is stages.probe


def test_the_weights_are_the_probes_on_the_same_batch(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    whole = ImageBatches.__call__

    def spied(self: ImageBatches, rows: Any) -> dict[str, torch.Tensor]:
        made = whole(self, rows)
        if self._kinds:
            seen.append({key: value.clone() for key, value in made.items()})
        return made

    monkeypatch.setattr(ImageBatches, "__call__", spied)
    once = {**TRAINING, "per_device_train_batch_size": 48, "num_train_epochs": 1}
    once |= {"logging_steps": 1}
    plan = plan_images(config(files, tmp_path / "out", training=once, augment="crop+flip"))
    stages = run_stages(plan)
    (batch,) = seen
    plain = ImageBatches(plan.processor)([plan.train[i] for i in range(48)])
    assert not any(torch.equal(batch["pixel_values"][0], own) for own in plain["pixel_values"])
    with torch.no_grad():
        known = stages.probe(batch["pixel_values"])["logits"].double()
        losses = functional.cross_entropy(known, batch["labels"], reduction="none")
        # The first step's loss is of the same weights, but BatchNorm in training.
        model = copy.deepcopy(stages.probe).train()
        now = model(batch["pixel_values"])["logits"].double()
        wanted = functional.cross_entropy(now, batch["labels"], reduction="none")
        wanted = (torch.exp(-losses / stages.temperature) * wanted).mean()
    logged = [entry["loss"] for entry in stages.log if "loss" in entry]
    assert logged == pytest.approx([float(wanted)], rel=1e-4)


def test_only_the_head_differs_from_the_fine_tuned_body(files: Path, tmp_path: Path) -> None:
    plan = plan_images(config(files, tmp_path / "out"))
    stages = run_stages(plan)
    (file,) = (tmp_path / "out.run" / "stages").glob("body-*")
    body, final = load_file(file), stages.final.state_dict()
    for key, value in body.items():
        assert torch.equal(value, final[key]) != plan.start.is_of_head(key), key
    assert not same(plan.start.with_head(stages.probe.head), stages.probe.with_state(body))


def test_what_is_put_back_for_the_old_task(files: Path, tmp_path: Path) -> None:
    plan = plan_images(config(files, tmp_path / "out"))
    final = run_stages(plan).final
    back = restored(final, plan.start).state_dict()
    before, after = plan.start.state_dict(), final.state_dict()
    normal = plan.start.normalization_keys()
    assert any(key.endswith("running_mean") for key in normal)
    assert any(key.endswith("weight") for key in normal)
    for key, value in back.items():
        original = key in normal or plan.start.is_of_head(key)
        assert torch.equal(value, before[key] if original else after[key]), key
    changed = [key for key in back if not torch.equal(back[key], before[key])]
    assert changed and all("convolution" in key for key in changed)


def test_wise_ft_blends_and_shares_the_stages(files: Path, tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    run_stages(plan_images(config(files, tmp_path / "flow", stages=shared)))
    kept = {path.name: path.stat().st_mtime_ns for path in Path(shared).iterdir()}
    method = MethodConfig(wise_ft=0.25)
    plan = plan_images(config(files, tmp_path / "wise", stages=shared, method=method))
    stages = run_stages(plan)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in Path(shared).iterdir()}.items()
    (file,) = Path(shared).glob("body-*")
    body = load_file(file)
    start, final = stages.probe.state_dict(), stages.final.state_dict()
    for key, value in body.items():
        if plan.start.is_of_head(key) or not value.is_floating_point():
            continue
        wanted = 0.75 * start[key].double() + 0.25 * value.double()
        torch.testing.assert_close(final[key].double(), wanted, rtol=1e-6, atol=1e-7)
    trained = stages.probe.with_state(body)
    assert same(blended(trained, stages.probe, 1.0), trained)
    assert not list((tmp_path / "wise.run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("saved", "newest"),
    [({}, 3), ({"save_strategy": "steps", "save_steps": 2}, 4)],
    ids=["epochs", "steps"],
)
def test_a_run_broken_off_anywhere_ends_the_same(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved: dict[str, Any],
    newest: int,
) -> None:
    augmented = {"augment": "crop+flip", "training": {**TRAINING, **saved}}
    whole = run_stages(plan_images(config(files, tmp_path / "whole", **augmented)))
    asked = config(files, tmp_path / "cut", **augmented)
    count = [0]
    writing = vision_protocol._write

    def dying(*arguments: Any) -> None:
        writing(*arguments)
        raise KeyboardInterrupt

    collating = ImageBatches.__call__

    def dying_later(self: ImageBatches, rows: Any) -> Any:
        count[0] += 1
        if count[0] > 5:  # In the second epoch of three batches each.
            raise KeyboardInterrupt
        return collating(self, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(vision_protocol, "_write", dying)
        run_stages(plan_images(asked))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageBatches, "__call__", dying_later)
        run_stages(plan_images(asked))
    assert list((tmp_path / "cut.run").glob(f"checkpoint-{newest}"))
    told: list[str] = []
    again = run_stages(plan_images(asked), tell=told.append)
    assert f"The run goes on from checkpoint-{newest}." in told
    assert not any("Stage 0" in note for note in told)
    assert same(again.final, whole.final)


def test_a_run_of_other_settings_is_refused(files: Path, tmp_path: Path) -> None:
    asked = config(files, tmp_path / "out", method=PROBE, training={})
    run_stages(plan_images(asked))
    other = dataclasses.replace(asked, seed=7)
    with pytest.raises(InputError, match=r"seed = 42 where it is now 7"):
        run_stages(plan_images(other))


def test_the_output_loads_and_tells(files: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"blue": [0, 1], "green": [2], "red": [3, 4]}))
    retention = ImageRetention(data=str(files / "test.parquet"), groups=str(groups))
    plan = plan_images(config(files, tmp_path / "out", retention=retention))
    done = finetune_images(plan)
    out = tmp_path / "out"
    loaded = AutoModelForImageClassification.from_pretrained(out)
    assert loaded.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert plan.test is not None
    batch = ImageBatches(plan.processor)([plan.test[i] for i in range(len(plan.test))])
    with torch.no_grad():
        right = loaded.eval()(batch["pixel_values"]).logits.argmax(-1).numpy() == labels_of(
            plan.test
        )
    np.testing.assert_array_equal(right, done.accuracies.target["final"])
    # What the old head needs is in the folder: with it the old task is measured again.
    state = {**loaded.state_dict(), **load_file(out / ORIGINAL)}
    old = plan.start.with_state({f"network.{key}": value for key, value in state.items()})
    np.testing.assert_array_equal(on_retention(plan, old), done.accuracies.retained["final"])
    table = json.loads((out / "results.json").read_text())["sections"][0]["data"]["rows"]
    assert [row[0] for row in table][:4] == [
        "accuracy on the target",
        "accuracy on its hardest tenth",
        "accuracy retained",
        "mean of target and retained",
    ]
    assert table[0][2] == pytest.approx(right.mean())


@pytest.mark.parametrize("kind", ["vit", "own"])
def test_other_networks_and_folders(tmp_path: Path, kind: str) -> None:
    train, test = write_folder(tmp_path / "train", 30, 0), write_folder(tmp_path / "test", 9, 1)
    data = ImageData(train=str(train), eval=str(test), eval_split="train")
    changes: dict[str, Any] = {"data": data, "training": {**TRAINING, "num_train_epochs": 1}}
    if kind == "own":
        changes |= {"model": "tests.training.tiny_images:own_network", "size": 16}
    else:
        changes |= {"model": str(write_model(tmp_path / "vit", "vit"))}
    plan = plan_images(config(tmp_path, tmp_path / "out", **changes))
    assert plan.start.head_name == ("top" if kind == "own" else "classifier")
    done = finetune_images(plan)
    assert len(done.accuracies.target["final"]) == 9
    if kind == "own":
        network = own_network()
        network.top = torch.nn.Linear(8, 3)
        network.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_dir": "out/run"}, "overlaps out"),
        ({"task": "text"}, "task is 'text'"),
        ({"augment": "mixup"}, "augment is 'mixup'"),
        ({"head": "resnet"}, "head is 'resnet', which is no linear layer"),
        ({"size": 32}, "brings its own processor"),
        ({"model": "no/such/model"}, "model no/such/model"),
        ({"model": "tests.training.tiny_images:own_network"}, "set size"),
        ({"model": "tests.training.tiny_images:nothing"}, "cannot be made"),
        ({"training": {"learning_rat": 1}}, "did you mean learning_rate"),
        ({"training": {"dataloader_persistent_workers": True}}, "repeat an epoch's augmentation"),
        ({"training": {"label_smoothing_factor": 0.1}}, "bypass the weights"),
        ({"method": MethodConfig(kl=1.0)}, "method.kl is for language models"),
        ({"method": MethodConfig(scheme="stm")}, "images take 'flow' or 'uniform'"),
        ({"method": MethodConfig(linear_probe=True)}, "set head_training only"),
        ({"data": ImageData(train="no-such-folder")}, "no-such-folder"),
        ({"retention": ImageRetention(groups="x.json")}, "retention.data is not"),
    ],
)
def test_refusals(files: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        if "run_dir" in changes:
            changes = {"run_dir": str(tmp_path / changes["run_dir"])}
        plan_images(config(files, tmp_path / "out", **changes))
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_refused_while_planning(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "out.run"
    (run / "stages").mkdir(parents=True)
    (run / "run.json").write_text('{"identity": {"seed": 1}, "versions": ""}')
    with pytest.raises(InputError, match="holds a run with"):
        plan_images(config(files, tmp_path / "out"))
    assert not plan_images(config(files, tmp_path / "out", overwrite=True)).resume.goes_on
    inside = write_parquet(run / "stages" / "test.parquet", 9, seed=1)
    retention = ImageRetention(data=str(inside))
    with pytest.raises(InputError, match=r"overlaps retention\.data"):
        plan_images(config(files, tmp_path / "out", overwrite=True, retention=retention))


def test_numbers_stay_the_classes_that_they_are(tmp_path: Path) -> None:
    images, _ = pictures(12, 0)
    numbers = [11, 2, 10, 0, 1, 2, 3, 9, 4, 5, 7, 6]
    features = Features({"image": Image(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": images, "label": numbers}, features=features)
    rows.to_parquet(str(tmp_path / "numbers.parquet"))
    read = read_images(
        str(tmp_path / "numbers.parquet"), "train", image="image", label="label", field="data"
    )
    assert labels_of(read).tolist() == numbers
    assert class_names(read) == [str(number) for number in range(12)]


def test_data_that_does_not_fit_is_refused(files: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "other", 9, 1)
    (tmp_path / "other" / "red").rename(tmp_path / "other" / "violet")
    data = ImageData(train=str(files / "train.parquet"), eval=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"data\.eval has the class 'violet'"):
        plan_images(config(files, tmp_path / "out", data=data))
    retention = ImageRetention(data=str(files / "test.parquet"))
    with pytest.raises(InputError, match=r"has 3 classes, .*original head 5, .*retention\.gr"):
        plan_images(config(files, tmp_path / "out", retention=retention))
    data = ImageData(train=str(files / "train.parquet"), label="kind")
    with pytest.raises(InputError, match=r"no column 'kind'; .* data\.label \(it has image, label"):
        plan_images(config(files, tmp_path / "out", data=data))
