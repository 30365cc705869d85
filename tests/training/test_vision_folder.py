"""The finished folder of an image run: lineage, report, card, and nothing where it would not load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from bequest.checkpoints import publish as publishing
from bequest.cli.main import main
from bequest.errors import BequestError, StorageError
from bequest.training import vision_folder
from bequest.training.method import MethodConfig
from bequest.training.vision_config import TASK, ImageConfig, ImageData
from bequest.training.vision_plan import ImagePlan, plan_images
from bequest.training.vision_publish import finetune_images
from tests.training.tiny_images import write_model, write_parquet

HEAD = {"num_train_epochs": 1, "use_cpu": True, "learning_rate": 0.3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_parquet(folder / "train.parquet", 24, seed=0)
    write_parquet(folder / "test.parquet", 9, seed=1)
    write_model(folder / "resnet")
    (folder / "resnet" / "README.md").write_text("---\nlicense: mit\n---\n# resnet\n")
    (folder / "resnet" / "LICENSE").write_text("Take it.")
    return folder


def probed(files: Path, out: Path, **changes: Any) -> ImagePlan:
    asked: dict[str, Any] = {
        "task": TASK,
        "model": str(files / "resnet"),
        "out": str(out),
        "data": ImageData(train=str(files / "train.parquet"), eval=str(files / "test.parquet")),
        "method": MethodConfig(linear_probe=True),
        "head_training": HEAD,
    }
    return plan_images(ImageConfig(**{**asked, **changes}))


@pytest.mark.parametrize("kind", ["transformers", "own"])
def test_lineage_and_report_take_it(
    files: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    own = {"model": "tests.training.tiny_images:own_network", "size": 16}
    finetune_images(probed(files, out, **(own if kind == "own" else {"hash": True})))

    assert main(["lineage", str(out), *([] if kind == "own" else ["--hash"])]) == 0
    told = capsys.readouterr().out
    assert "finetune" in told and "as they were written" in told
    record = json.loads((out / "bequest.json").read_text())
    written = {path.name for path in out.iterdir()} - {"bequest.json"}
    assert {output["name"] for output in record["outputs"]} == written
    assert written >= {"README.md", "results.json", "model.safetensors", "pretrained.safetensors"}
    described = {one["role"]: one for one in record["inputs"]}
    assert set(described) == {"model", "data.train", "data.eval"}
    assert described["data.train"]["files"][0]["sha256"]
    assert "created" in record

    assert main(["report", str(out), "--out", str(tmp_path / "r.html"), "--quiet"]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Fine-tuning on images" in page and 'class="picture lineage' in page
    card = ModelCard.load(out / "README.md")
    assert "linear probe" in card.text
    if kind == "own":
        assert described["model"]["files"][0]["name"] == "tiny_images.py"
        assert card.data.library_name == "pytorch"
    else:
        assert described["model"]["structure_sha256"]
        assert (card.data.library_name, card.data.license) == ("transformers", "mit")
        assert (out / "LICENSE").read_text() == "Take it."

    # What was changed afterwards is found.
    (out / "results.json").write_text("{}")
    assert main(["lineage", str(out)]) == 2


def test_what_would_not_load_is_not_published(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = probed(files, tmp_path / "out")
    final = plan.start.with_head(torch.nn.Linear(16, 3))
    whole = final.network.state_dict
    lacking = {key: value for key, value in whole().items() if not key.endswith("running_mean")}
    with monkeypatch.context() as patch:
        patch.setattr(final.network, "state_dict", lambda: lacking)
        with pytest.raises(BequestError, match=r"running_mean is among its missing keys"):
            vision_folder.publish(plan, final, 1.0, [])
    with torch.no_grad():
        final.head.weight[0, 0] = torch.inf
    with pytest.raises(BequestError, match=r"classifier\.1\.weight holds values that are not fin"):
        vision_folder.publish(plan, final, 1.0, [])
    final.head.weight.data.zero_()
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_SPARE_BYTES", 1 << 60)
        with pytest.raises(StorageError, match=r"out .* needs .* GB and its disk has"):
            vision_folder.publish(plan, final, 1.0, [])
    assert not list(tmp_path.iterdir())
    vision_folder.publish(plan, final, 1.0, [])
    assert (tmp_path / "out" / "bequest.json").is_file()
