"""The L2 penalty of the whole model's training, against gradient descent by hand in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bequest.training.vision_stages import _BodyTrainer
from tests.training.weighted_runs import ROWS, Classifier, parameters, rows, trained


@pytest.mark.parametrize("l2", [0.0, 20.0])
@pytest.mark.parametrize("batch", [16, 4])
def test_the_penalty_is_that_of_the_step(tmp_path: Path, l2: float, batch: int) -> None:
    args = {
        "max_steps": 4,
        "num_train_epochs": 4,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": ROWS // batch,
    }
    run = trained(_BodyTrainer, tmp_path, args=args, weights=np.ones(ROWS), l2=l2)
    model, start = Classifier().double(), Classifier().double()
    count = sum(p.numel() for p in model.parameters())
    data = rows()
    features = torch.tensor(data["features"], dtype=torch.float64)
    for _ in range(4):
        loss = functional.cross_entropy(model(features)["logits"], torch.tensor(data["labels"]))
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        loss = loss + l2 / count * sum(((p - q.detach()) ** 2).sum() for p, q in pairs)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    found = parameters(run)
    for name, wanted in model.named_parameters():
        torch.testing.assert_close(found[name].double(), wanted.detach(), rtol=0, atol=2e-6)
