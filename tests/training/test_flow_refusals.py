"""What FlowTrainer refuses before a step is trained, each in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig

from bequest.errors import InputError
from tests.training.sft_runs import samples, trained

PISSA = LoraConfig(
    r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="pissa"
)
MASKED = Dataset.from_dict({"input_ids": [[5, 6]] * 2, "labels": [[-100, -100]] * 2})
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"scheme": "flaw"}, "scheme is 'flaw'"),
    "temperature zero": ({"temperature": 0}, "temperature is 0"),
    "temperature of dft": ({"scheme": "dft", "temperature": 2.0}, "scheme dft has none"),
    "dft by weights": ({"scheme": "dft", "normalizer": "weights"}, "normalizer 'weights'"),
    "unused scores": ({"scheme": "uniform", "scores": [1.0] * 8}, "scores is given"),
    "short": ({"scores": [1.0] * 7}, "7 weights, but train_dataset has 8 rows"),
    "negative": ({"scores": [1.0] * 7 + [-1.0]}, r"scores\[7\] is -1"),
    "all zero": ({"scores": [0.0] * 8}, "no weight above 0"),
    "weights with a scheme": ({"scores": [1.0] * 8, "scheme": "flow"}, "cannot change"),
    "stream": ({"data": samples().to_iterable_dataset()}, "IterableDataset; give"),
    "collator": ({"data_collator": list}, "does not know of weights"),
    "own loss": ({"compute_loss_func": len}, "compute_loss_func replaces"),
    "loss_type": ({"args": {"loss_type": "dft"}}, "loss_type is 'dft'"),
    "label smoothing": ({"args": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor"),
    "nothing left": ({"data": MASKED}, "no response token left"),
    "prompt tuning": (
        {
            "scheme": "uniform",
            "peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        },
        "virtual tokens",
    ),
    "pissa": ({"peft_config": PISSA}, "run `bequest score` first"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_refuses(tmp_path: Path, case: str) -> None:
    how, message = CASES[case]
    with pytest.raises(InputError, match=message):
        trained(tmp_path, **how)
