"""What a finished fine-tuning run leaves, and that it trained what FlowTrainer trains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from bequest.cli.main import main
from bequest.training.flow_trainer import FlowTrainer
from bequest.training.method import MethodConfig
from training.tiny_finetune import ROWS, Inputs, config_file, make_inputs

PLAIN = {"data": {"eval_fraction": 0}, "retention": {"texts": None}}
SHORT = {"max_steps": 2, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def run(
    folder: Path, inputs: Inputs, *words: object, name: str = "out", **changes: Any
) -> tuple[int, Path]:
    """Run the command in this process and return its code and the finished folder."""
    folder.mkdir(exist_ok=True)
    file = config_file(folder / f"{name}.yaml", inputs, out=str(folder / name), **changes)
    return main(["finetune", "--config", str(file), *map(str, words)]), folder / name


METHODS = [
    (False, {"l2": 5.0, "wise_ft": 0.25}, {"2502.02797", "1802.01483", "2109.01903"}),
    pytest.param(True, {"kl": 0.1}, {"2502.02797", "1606.09282"}, marks=pytest.mark.slow),
    pytest.param(False, {"scheme": "uniform", "sfa": 3}, {"2501.05559"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("packing", "method", "papers"), METHODS)
def test_it_trains_what_flow_trainer_trains_on_the_raw_data(
    packing: bool, method: dict[str, Any], papers: set[str], inputs: Inputs, tmp_path: Path
) -> None:
    training = {"packing": packing, "max_length": 30, "max_steps": 3, "shuffle_dataset": True}
    changes = {"training": {**SHORT, **training}, "method": method}
    code, out = run(tmp_path, inputs, "--quiet", **PLAIN, **changes)
    assert code == 0
    assert set(re.findall(r"arXiv ([\d.]+)", (out / "README.md").read_text())) == papers
    args = SFTConfig(
        str(tmp_path / "plain"),
        **training,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        report_to="none",
        use_cpu=True,
        bf16=False,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    trainer = FlowTrainer(
        str(inputs.model),
        args,
        train_dataset=Dataset.from_list(ROWS),
        method=MethodConfig(**method),
    )
    trainer.train()
    trained = load_file(out / "model.safetensors")
    start = load_file(inputs.model / "model.safetensors")
    plain = trainer.model.state_dict()
    assert trained.keys() == start.keys()
    assert all(torch.equal(trained[key], plain[key]) for key in trained)
    assert not torch.equal(trained["lm_head.weight"], start["lm_head.weight"])


@pytest.mark.slow
def test_the_finished_folder(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    averages = {"ema": {"beta": 0.5}}
    changes: dict[str, Any] = {"averages": averages, "weights": "ema"}
    capsys.readouterr()
    code, out = run(tmp_path, inputs, "--json", **changes)
    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    assert printed["sections"] == results["sections"]
    sections = {section["title"]: section for section in results["sections"]}
    (loss, held_out, ema) = sections["Loss"]["data"]["series"]
    assert loss["x"] == list(range(1, 11)) and held_out["x"] == ema["x"] == [5, 10]
    assert sections["Retention"]["data"]["series"][0]["x"] == [0, 5, 10]
    assert any("Quantiles" in title for title in sections)
    lineage = json.loads((out / "bequest.json").read_text())
    assert lineage["operation"] == "finetune"
    assert lineage["settings"]["published_from"] == "checkpoint-10/averaging/ema"
    roles = [described["role"] for described in lineage["inputs"]]
    assert roles == ["model", "data.train", "retention.texts"]
    assert main(["lineage", str(out)]) == 0
    averaged = tmp_path / "out.run/checkpoint-10/averaging/ema/model.safetensors"
    assert (out / "model.safetensors").read_bytes() == averaged.read_bytes()
    assert "bequest finetune" in (out / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32
    assert (out / "model.safetensors").stat().st_mode & 0o077
    # The same command again, other weights of the same run, and another run.
    before = (out / "bequest.json").read_bytes()
    capsys.readouterr()
    assert run(tmp_path, inputs, **changes)[0] == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (
        run(tmp_path, inputs, "--run_dir", tmp_path / "out.run", name="raw", averages=averages)[0]
        == 0
    )
    raw = tmp_path / "out.run/checkpoint-10/model.safetensors"
    assert (tmp_path / "raw/model.safetensors").read_bytes() == raw.read_bytes()
    changes["training"] = {"seed": 7}
    capsys.readouterr()
    words = ["--run_dir", tmp_path / "out.run"]
    assert run(tmp_path, inputs, *words, name="other", **changes)[0] == 2
    assert "training.seed = nothing where it is now 7" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert (out / "bequest.json").read_bytes() == before
    assert run(tmp_path, inputs, "--overwrite", "--quiet", **changes, hash=True)[0] == 0
    lineage = json.loads((out / "bequest.json").read_text())
    assert lineage["settings"]["training"]["seed"] == 7
    assert main(["lineage", str(out), "--hash"]) == 0


def test_an_adapter_and_the_merged_model(inputs: Inputs, tmp_path: Path) -> None:
    changes = {**PLAIN, "training": {**SHORT, "learning_rate": 0.1}, "lora": {"r": 4}}
    code, adapter = run(tmp_path, inputs, "--quiet", **changes)
    assert code == 0
    assert not (adapter / "config.json").exists()
    words = ["--quiet", "--merge", "--run_dir", tmp_path / "out.run"]
    code, merged = run(tmp_path, inputs, *words, name="merged", **changes)
    assert code == 0
    assert not list(merged.glob("adapter*"))
    base = AutoModelForCausalLM.from_pretrained(inputs.model)
    ids = torch.tensor([[5, 6, 7, 8]])
    start = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(adapter))(ids).logits
    whole = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    torch.testing.assert_close(adapted, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(start, whole, rtol=1e-2)


@pytest.mark.slow
def test_it_stops_when_too_much_is_forgotten(inputs: Inputs, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "retention": {"max_increase": 0.0},
        "training": {"learning_rate": 0.05, "eval_steps": 2, "save_steps": 3},
    }
    code, out = run(tmp_path, inputs, "--quiet", **changes)
    assert code == 0
    settings = json.loads((out / "bequest.json").read_text())["settings"]
    stopped = settings["steps"]
    assert stopped in (2, 4, 6, 8)
    # Published again from its last checkpoint, without another step.
    again = ["--quiet", "--run_dir", tmp_path / "out.run"]
    code, other = run(tmp_path, inputs, *again, name="again", **changes)
    assert code == 0
    assert json.loads((other / "bequest.json").read_text())["settings"]["steps"] == stopped
    assert (other / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_diverged_is_not_published(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {**SHORT, "learning_rate": 1e38, "max_grad_norm": 0.0, "optim": "sgd"}
    code, out = run(tmp_path, inputs, "--quiet", **PLAIN, training=training)
    assert code == 1 and "diverged" in capsys.readouterr().err
    assert not out.exists()


def test_a_dry_run_prints_the_plan(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    code, out = run(tmp_path, inputs, "--dry-run")
    told = capsys.readouterr().out
    assert code == 0 and not out.exists()
    for words in ("optimizer steps", "34,080", "estimated memory", "dry run"):
        assert words in told
    assert [path.name for path in tmp_path.iterdir()] == ["out.yaml"]


def test_print_config_can_be_run(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    file = config_file(tmp_path / "c.yaml", inputs, out=str(tmp_path / "out"))
    words = ["--config", str(file), "--training.learning_rate", "2e-5", "--method.temperature=2"]
    with pytest.raises(SystemExit) as ended:
        main(["finetune", *words, "--print_config"])
    assert not ended.value.code
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert main(["finetune", "--config", str(tmp_path / "printed.yaml"), "--dry-run"]) == 0
    text = (tmp_path / "printed.yaml").read_text()
    assert "2.0e-05" in text and "temperature: 2" in text
