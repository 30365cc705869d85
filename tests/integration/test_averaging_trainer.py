"""The callback in a Trainer of two processes, with replicated and with sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import bequest

SCRIPT = Path(__file__).with_name("averaging_trainer_run.py")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=20,
        intermediate_size=30,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "start")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bequest.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path), kind],
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    log = json.loads((tmp_path / f"{kind}.json").read_text())
    assert [entry["step"] for entry in log] == [3, 6]
    assert all({"eval_lawa_loss", "eval_ema_loss"} <= entry.keys() for entry in log)

    members = tmp_path / kind / "averaging"
    files = sorted(file.name for file in members.iterdir())
    if kind == "ddp":
        assert files == ["step-2.safetensors", "step-4.safetensors", "step-6.safetensors"]
    else:
        assert len(files) == 4  # two steps, two processes; nothing to resume names older ones
    saved = load_file(tmp_path / kind / "checkpoint-6" / "averaging" / "lawa" / "model.safetensors")
    for name, array in saved.items():
        whole = [gathered(members, step, name) for step in (4, 6)]
        mean = sum(member.astype(np.float64) * 0.5 for member in whole)
        assert array.tobytes() == mean.astype(np.float32).tobytes(), name


def gathered(members: Path, step: int, name: str) -> np.ndarray:
    shards = sorted(members.glob(f"step-{step}-rank-*.safetensors"))
    if not shards:
        return load_file(members / f"step-{step}.safetensors")[name]
    return np.concatenate([load_file(shard)[name] for shard in shards])
