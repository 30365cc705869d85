"""`bequest finetune` on images as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bequest.cli.finetune_images import is_asked_for
from bequest.cli.main import main
from tests.training.tiny_images import write_folder, write_model

FILE = """\
task: image-classification
model: {folder}/model
out: {folder}/out
data: {{train: {folder}/train, eval: {folder}/test, eval_split: train}}
method: {{scheme: flow, wise_ft: 0.5}}
training: {{num_train_epochs: 1, per_device_train_batch_size: 8, use_cpu: true}}
head_training: {{num_train_epochs: 2, learning_rate: 1e-1, use_cpu: true}}
"""


def test_it_knows_images(tmp_path: Path) -> None:
    images, text = tmp_path / "images.yaml", tmp_path / "text.yaml"
    images.write_text("task: image-classification\n")
    text.write_text("model: x\n")
    assert is_asked_for(["--config", str(images)])
    assert is_asked_for([f"--config={images}", "--seed", "1"])
    assert is_asked_for(["--task", "image-classification", "--help"])
    assert not is_asked_for(["--config", str(text)])
    assert not is_asked_for(["--config", str(tmp_path / "none.yaml")])
    assert not is_asked_for(["--help"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "model")
    write_folder(tmp_path / "train", 24, 0)
    write_folder(tmp_path / "test", 9, 1)
    file = tmp_path / "run.yaml"
    file.write_text(FILE.format(folder=tmp_path))
    asked = ["finetune", "--config", str(file)]
    assert main([*asked, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert (
        "training images" in told
        and "estimated memory (GB)" in told
        and "Nothing was written" in told
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()

    assert main(asked) == 0
    told = capsys.readouterr().out
    assert all(f"Stage {number}" in told for number in range(3))
    assert main(asked) == 2
    assert "exists; name another folder or pass --overwrite" in capsys.readouterr().err

    assert main([*asked, "--overwrite", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["sections"] == kept["sections"]
    # Its lineage is one that the other commands read.
    assert main(["lineage", str(tmp_path / "out")]) == 0
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Made by finetune from model, train and test." in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--augment", "blur"], "augment is 'blur'"),
        (["--method.scheme", "stm"], "images take"),
        (["--sead", "1"], "sead"),
    ],
)
def test_wrong_input_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(FILE.format(folder=tmp_path))
    assert main(["finetune", "--config", str(file), *changes]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
