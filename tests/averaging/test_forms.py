"""Averages of what programs other than Trainer leave: state dicts, DCP, adapters, hub revisions."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import bequest
from averaging import runs
from bequest.averaging.coefficients import coefficient_vector
from bequest.checkpoints.formats import open_weights
from bequest.errors import BequestError

UNIFORM = coefficient_vector("uniform", 3)
STEPS = (1, 2, 3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that was trained: it gives the configuration."""
    folder = tmp_path_factory.mktemp("base")
    runs.write_model(folder, 0)
    return folder


def expected() -> dict[str, object]:
    return runs.exact_average(map(runs.state_of, STEPS), UNIFORM)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        (lambda step: f"step{step}.safetensors", ""),
        (lambda step: f"iter_{step:08d}.pt", "_orig_mod."),
        (lambda step: f"ckpt-{step}.bin", "module."),
        (lambda step: f"global_step{step}.pth", "module._orig_mod."),
    ],
)
def test_state_dicts(name: Callable[[int], str], prefix: str, base: Path, tmp_path: Path) -> None:
    run = runs.write_state_dicts(tmp_path / "run", name, STEPS, prefix)
    bequest.average_checkpoints(run, tmp_path / "out", window=3, config_from=base)
    runs.same_bits(runs.read(tmp_path / "out"), expected(), torch.float32)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), LlamaForCausalLM)
    plan = bequest.average_checkpoints(run, tmp_path / "bare", window=3)
    runs.same_bits(runs.read(tmp_path / "bare"), expected(), torch.float32)
    assert not (tmp_path / "bare" / "config.json").exists()
    assert any("plain state dict" in note for note in plan.notes)


def test_runs_of_litgpt(tmp_path: Path) -> None:
    runs.write_state_dicts(tmp_path / "run", lambda step: f"iter-{step:06}-ckpt.pth", STEPS)
    plan = bequest.average_checkpoints(tmp_path / "run", tmp_path / "out", window=3)
    assert [member.step for member in plan.members] == list(STEPS)


def test_folders_of_one_state_dict(tmp_path: Path) -> None:
    for step in STEPS:
        runs.write_state_dicts(tmp_path / f"epoch_{step}", lambda _: "weights.pt", (step,))
    bequest.average_checkpoints(tmp_path, tmp_path / "out", window=3)
    runs.same_bits(runs.read(tmp_path / "out"), expected(), torch.float32)


def test_whole_state_dicts_of_accelerates_fsdp(base: Path, tmp_path: Path) -> None:
    for step in STEPS:
        folder = tmp_path / "run" / f"checkpoint-{step}"
        runs.write_state_dicts(folder, lambda _: "pytorch_model_fsdp.bin", (step,))
        for name in ("optimizer.bin", "scheduler.pt", "rng_state_0.pth"):
            torch.save({"step": step}, folder / name)
        (folder / "trainer_state.json").write_text("{}")
    bequest.average_checkpoints(tmp_path / "run", tmp_path / "out", window=3, config_from=base)
    runs.same_bits(runs.read(tmp_path / "out"), expected(), torch.float32)


def test_a_configuration_of_another_model_is_found_out(tmp_path: Path) -> None:
    run = runs.write_state_dicts(tmp_path / "run", lambda s: f"step{s}.pt", STEPS)
    runs.model(0, num_hidden_layers=3).save_pretrained(tmp_path / "other")
    with pytest.raises(BequestError, match=r"missing: model\.layers\.2"):
        bequest.average_checkpoints(run, tmp_path / "out", window=3, config_from=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_a_file_with_more_than_tensors(tmp_path: Path) -> None:
    for step in STEPS:
        (tmp_path / "run").mkdir(exist_ok=True)
        torch.save({"model": runs.state_of(step)}, tmp_path / "run" / f"step{step}.pt")
    with pytest.raises(BequestError, match="save the model's state dict alone"):
        bequest.average_checkpoints(tmp_path / "run", tmp_path / "out", window=3)


# torch.distributed.checkpoint


def _nested(state: runs.State, step: int) -> dict[str, object]:
    """As accelerate and Trainer save under FSDP."""
    del step
    return {"model": state}


def _with_optimizer(state: runs.State, step: int) -> dict[str, object]:
    moments = {name: torch.full_like(value, step) for name, value in state.items()}
    return {"model": state, "optim": {"state": {"exp_avg": moments}}, "step": step}


def _bare(state: runs.State, step: int) -> dict[str, object]:
    del step
    return dict(state)


def _app(state: runs.State, step: int) -> dict[str, object]:
    return {"app": {"model": state, "optimizer": {"lr": torch.tensor(0.1 * step)}}}


@pytest.mark.parametrize("nest", [_nested, _with_optimizer, _bare, _app])
@pytest.mark.parametrize("inner", ["", "pytorch_model_fsdp_0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcp_of_one_process(
    nest: Callable[[runs.State, int], dict[str, object]], inner: str, base: Path, tmp_path: Path
) -> None:
    for step in STEPS:
        folder = tmp_path / f"checkpoint-{step}" / inner
        dcp.save(nest(runs.state_of(step), step), checkpoint_id=folder)
    bequest.average_checkpoints(tmp_path, tmp_path / "out", window=3, config_from=base)
    runs.same_bits(runs.read(tmp_path / "out"), expected(), torch.float32)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcp_needs_a_configuration_and_whole_files(base: Path, tmp_path: Path) -> None:
    for step in STEPS:
        dcp.save(runs.state_of(step), checkpoint_id=tmp_path / f"step{step}")
    out = tmp_path / "out"
    with pytest.raises(BequestError, match="--config-from"):
        bequest.average_checkpoints(tmp_path, out, window=3)
    (tmp_path / "step2" / "__0_0.distcp").write_bytes(
        (tmp_path / "step2" / "__0_0.distcp").read_bytes()[:5000]
    )
    with pytest.raises(BequestError, match="cannot be read"):
        bequest.average_checkpoints(tmp_path, out, window=3, config_from=base)
    (tmp_path / "step2" / "__0_0.distcp").unlink()
    with pytest.raises(BequestError, match="cannot be read"):
        bequest.average_checkpoints(tmp_path, out, window=3, config_from=base)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch it-ran",)


def test_dcp_metadata_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(BequestError, match="not allowed"):
        open_weights(tmp_path)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dcp_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    dcp.save(runs.state_of(1), checkpoint_id=tmp_path / "step1")
    metadata = (tmp_path / "step1" / ".metadata").read_bytes()
    changed = metadata.replace(b"__0_0.distcp", b"../0_0.distc")
    assert changed != metadata
    (tmp_path / "step1" / ".metadata").write_bytes(changed)
    with pytest.raises(BequestError, match=r"\.\./0_0"):
        open_weights(tmp_path / "step1")


def test_dcp_of_two_processes(base: Path, tmp_path: Path) -> None:
    """Real FSDP2 over gloo, uneven shards along the first axis, and a mesh that cuts the second."""
    worker = Path(__file__).with_name("dcp_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(p) for p in (worker.parents[1],))
    subprocess.run(
        [*command, str(worker), str(tmp_path)], check=True, env=environment, capture_output=True
    )
    for kind in ("fsdp", "columns"):
        run = tmp_path / kind
        weights = open_weights(run / "step1")
        assert any(len(tensor.pieces) > 1 for tensor in weights.tensors.values())
        bequest.average_checkpoints(run, tmp_path / f"out-{kind}", window=3, config_from=base)
        found = runs.read(tmp_path / f"out-{kind}")
        if kind == "fsdp":  # which saves both copies of what is tied
            assert torch.equal(found.pop("lm_head.weight"), found["model.embed_tokens.weight"])
        runs.same_bits(found, expected(), torch.float32)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"out-{kind}")
        assert model.lm_head.weight is model.model.embed_tokens.weight
    with pytest.raises(BequestError, match=r"only one of .* which are tied"):
        bequest.average_checkpoints(
            tmp_path / "fsdp", tmp_path / "out", window=3, config_from=base, exclude=["embed"]
        )


# PEFT


def test_adapters(base: Path, tmp_path: Path) -> None:
    states = []
    for step in STEPS:
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj"])
        )
        for position, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            generator = torch.Generator().manual_seed(100 * step + position)
            parameter.data = torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        states.append(runs.read(tmp_path / f"checkpoint-{step}"))
    plan = bequest.average_checkpoints(tmp_path, tmp_path / "out", window=3)
    runs.same_bits(runs.read(tmp_path / "out"), runs.exact_average(states, UNIFORM), torch.float32)
    assert sorted(p.name for p in (tmp_path / "out").glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "library_name: peft" in (tmp_path / "out" / "README.md").read_text()
    assert any("not their products" in note for note in plan.notes)
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out")
    )
    assert loaded.active_adapter == "default"


def test_adapters_of_processes_that_ordered_their_modules_otherwise(
    base: Path, tmp_path: Path
) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    for step, order in ((1, ["q_proj", "v_proj"]), (2, ["v_proj", "q_proj"])):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        file = tmp_path / f"checkpoint-{step}" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": order}))
    plan = bequest.average_checkpoints(tmp_path, tmp_path / "out", window=2)
    assert len(plan.members) == 2
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_modules": ["q_proj"]}))
    with pytest.raises(
        BequestError, match=r"target_modules = \['q_proj', 'v_proj'\] and \['q_proj"
    ):
        bequest.average_checkpoints(tmp_path, tmp_path / "other", window=2)


def test_an_adapter_is_no_model(base: Path, tmp_path: Path) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    model.save_pretrained(tmp_path / "checkpoint-1")
    shutil.copytree(base, tmp_path / "checkpoint-2")
    with pytest.raises(BequestError, match="their forms are adapter and model"):
        bequest.average_checkpoints(tmp_path, tmp_path / "out", window=2)


# The hub's cache


def test_revisions_of_a_hub_repository(tmp_path: Path) -> None:
    """Offline, from a cache laid out as huggingface_hub does: snapshots by commit, refs by name."""
    cache = tmp_path / "hub" / "models--someone--run"
    for step in STEPS:
        commit = f"{step:040x}"
        runs.write_model(cache / "snapshots" / commit, step)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / f"step{step}").write_text(commit)
    source = str(Path(bequest.__file__).parents[1])
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": source}
    main = "import sys; from bequest.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "average", "out", "--repo", "someone/run"]
    done = subprocess.run(
        [*command, "--revisions", "step1,step2,step3"],
        env={**environment, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    runs.same_bits(runs.read(tmp_path / "out"), expected(), torch.float32)
    named = [f"someone/run@step{step}" for step in STEPS]
    done = subprocess.run(
        [*command[:4], *named, "again"],
        env={**environment, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    runs.same_bits(runs.read(tmp_path / "again"), expected(), torch.float32)
