"""FlowTrainer in two processes, replicated and really sharded, against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import bequest
from tests.integration.flow_processes_run import options_of
from tests.training.sft_runs import gap, losses, parameters, tiny_model, trained

SCRIPT = Path(__file__).with_name("flow_processes_run.py")
RUNS: dict[str, dict[str, Any]] = {
    "flow": {"options": {}, "args": {"gradient_accumulation_steps": 2}},
    "weights": {
        "options": {"normalizer": "weights"},
        "args": {"gradient_accumulation_steps": 2},
    },
    "tokens": {
        "options": {"scheme": "flow-token", "normalizer": "weights"},
        "args": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    },
    "stm": {
        "options": {"scheme": "stm"},
        "args": {"gradient_accumulation_steps": 2, "padding_free": True, "max_length": None},
    },
    "dft": {
        "options": {"method": {"scheme": "dft"}},
        "args": {"gradient_accumulation_steps": 2},
    },
    "l2 and blends": {
        "options": {"method": {"l2": 40.0, "sfa": 2, "wise_ft": 0.3}},
        "args": {"gradient_accumulation_steps": 2, "max_steps": 4, "learning_rate": 0.5},
    },
    "kl": {
        "options": {"method": {"kl": 0.7, "normalizer": "weights"}},
        "args": {"gradient_accumulation_steps": 2, "max_steps": 3, "learning_rate": 0.5},
    },
}
"""2 processes x 2 samples x 2 accumulated = the 8 samples of one step."""


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_processes_are_one(tmp_path: Path, kind: str) -> None:
    tiny_model().save_pretrained(tmp_path / "start")
    # The graph of KL would reach sharded weights past the reduction of gradients: it is refused.
    runs = {name: how for name, how in RUNS.items() if (kind, name) != ("fsdp", "kl")}
    refused = {} if kind == "ddp" else {"refused": RUNS["kl"]}
    (tmp_path / "runs.json").write_text(json.dumps({**runs, **refused}))
    source = Path(bequest.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(source.parent)]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", "2", str(SCRIPT), str(tmp_path), kind],
        env=environment,
        timeout=560,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, how in runs.items():
        args = {**how["args"], "gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
        one = trained(tmp_path / "one", args=args, **options_of(how))
        two = load_file(tmp_path / f"{kind}-{name}.safetensors")
        assert gap(two, parameters(one)) < 3e-6, name
        logged = json.loads((tmp_path / f"{kind}-{name}.json").read_text())
        assert logged == pytest.approx(losses(one), rel=1e-5), name
