"""WeightedTrainer against the objective by hand in float64, plain Trainer, and itself run otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional
from transformers import Trainer

import bequest
from bequest.errors import InputError
from bequest.training.weighted_trainer import WEIGHT, WeightedTrainer
from tests.training.weighted_runs import CLASSES, ROWS, Classifier, parameters, rows, trained

WEIGHTS = np.random.default_rng(1).exponential(size=ROWS).astype(np.float32)
WEIGHTS[3] = 0.0


def by_hand(weights: np.ndarray, divisor: float, steps: int = 1) -> dict[str, torch.Tensor]:
    """Gradient descent on the whole data in float64."""
    model = Classifier().double()
    data = rows()
    features = torch.tensor(data["features"], dtype=torch.float64)
    labels = torch.tensor(data["labels"])
    for _ in range(steps):
        log_probabilities = torch.log_softmax(model(features)["logits"], dim=-1)
        losses = -log_probabilities[torch.arange(ROWS), labels]
        model.zero_grad()
        ((torch.tensor(weights, dtype=torch.float64) * losses).sum() / divisor).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    return {name: p.detach() for name, p in model.named_parameters()}


def gap(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("normalizer", ["samples", "weights"])
@pytest.mark.parametrize("batch", [16, 8, 4, 3, 1])
def test_a_step_is_the_gradient_of_the_objective(
    tmp_path: Path, normalizer: str, batch: int
) -> None:
    accumulation = -(-ROWS // batch)  # 3 does not divide 16: the last micro-batch is shorter.
    args = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    run = trained(WeightedTrainer, tmp_path, args=args, weights=WEIGHTS, normalizer=normalizer)
    divisor = float(WEIGHTS.sum()) if normalizer == "weights" else ROWS
    assert gap(parameters(run), by_hand(WEIGHTS, divisor)) < 2e-7


@pytest.mark.parametrize("batch", [16, 4])
def test_weights_of_one_are_the_plain_trainer(tmp_path: Path, batch: int) -> None:
    # Powers of two, so that the plain Trainer's mean of means has no other rounding.
    args = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 16 // batch,
        "max_steps": 5,
    }
    plain = trained(Trainer, tmp_path, args=args)
    weighted = trained(WeightedTrainer, tmp_path, args=args, weights=np.ones(ROWS))
    assert gap(parameters(plain), parameters(weighted)) == 0
    logged = [
        [row["loss"] for row in run.state.log_history if "loss" in row] for run in (plain, weighted)
    ]
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)


class _Graphs(Classifier):
    """A classifier of graphs: nodes of all of them in one tensor, and which graph each is of."""

    def forward(
        self, nodes: torch.Tensor, graph: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        count = int(graph.max()) + 1
        sums = torch.zeros(count, nodes.shape[1]).index_add(0, graph, nodes)
        return super().forward(sums, labels)


def _graphs(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Two or three nodes a graph, which add up to its features."""
    parts, graph = [], []
    for number, row in enumerate(rows):
        own = torch.tensor(row["features"])
        nodes = 2 + number % 2
        parts += [own / nodes] * nodes
        graph += [number] * nodes
    made = {"nodes": torch.stack(parts), "graph": torch.tensor(graph)}
    made["labels"] = torch.tensor([row["labels"] for row in rows])
    if WEIGHT in rows[0]:
        made[WEIGHT] = torch.tensor([row[WEIGHT] for row in rows])
    return made


@pytest.mark.parametrize("batch", [16, 6])
@pytest.mark.parametrize("kind", ["weights", "reference"])
def test_samples_are_counted_where_the_first_tensor_holds_nodes(
    tmp_path: Path, batch: int, kind: str
) -> None:
    how: dict[str, Any] = {"weights": WEIGHTS}
    weights = WEIGHTS
    if kind == "reference":
        reference = _Graphs(seed=5)
        how = {"reference_model": reference, "temperature": 0.7}
        data = rows()
        with torch.no_grad():
            logits = Classifier(seed=5)(torch.tensor(data["features"]))["logits"]
            losses = functional.cross_entropy(
                logits, torch.tensor(data["labels"]), reduction="none"
            )
        weights = torch.exp(-losses / 0.7).numpy()
    run = trained(
        WeightedTrainer,
        tmp_path,
        model=_Graphs(),
        data_collator=_graphs,
        args={
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": -(-ROWS // batch),
            "remove_unused_columns": False,
        },
        **how,
    )
    assert gap(parameters(run), by_hand(weights, ROWS)) < 1e-6


def test_samples_that_cannot_be_counted_are_refused(tmp_path: Path) -> None:
    def unlabelled(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = _graphs(rows)
        return {name: made[name] for name in ("nodes", "graph")}

    with pytest.raises(InputError, match=r"gave 16 losses for a batch that counts as 40 samples"):
        trained(
            WeightedTrainer,
            tmp_path,
            model=_Graphs(),
            data_collator=unlabelled,
            reference_model=_Graphs(seed=5),
            temperature=1.0,
            sample_losses=lambda outputs, _: outputs["logits"].square().sum(dim=1),
            args={"remove_unused_columns": False},
        )


def test_a_reference_weighs_the_batch_it_is_given(tmp_path: Path) -> None:
    reference = Classifier(seed=5)
    seen: list[torch.Tensor] = []
    reference.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named["features"]), with_kwargs=True
    )
    made: list[dict[str, torch.Tensor]] = []

    def augmented(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        features = torch.tensor([row["features"] for row in batch])
        labels = torch.tensor([row["labels"] for row in batch])
        made.append({"features": features + torch.randn_like(features), "labels": labels})
        return dict(made[-1])

    run = trained(
        WeightedTrainer,
        tmp_path,
        reference_model=reference,
        temperature=0.7,
        data_collator=augmented,
        args={"remove_unused_columns": False},
    )
    (batch,) = made
    assert torch.equal(seen[0], batch["features"])
    assert not any(p.requires_grad for p in reference.parameters()) and not reference.training
    double = batch["features"].double()
    with torch.no_grad():
        losses, known = (
            functional.cross_entropy(
                model.double()(features=double)["logits"], batch["labels"], reduction="none"
            )
            for model in (Classifier(), reference)
        )
        wanted = (torch.exp(-known / 0.7) * losses).mean()
    logged = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert logged == pytest.approx([float(wanted)], rel=1e-5)


def test_evaluation_is_never_weighted(tmp_path: Path) -> None:
    data = Dataset.from_dict(rows())
    args = {"per_device_eval_batch_size": 4}
    runs = [
        trained(kind, tmp_path, args={**args, "learning_rate": 0.0}, eval_dataset=data, **given)
        for kind, given in ((Trainer, {}), (WeightedTrainer, {"weights": WEIGHTS}))
    ]
    plain, weighted = (run.evaluate()["eval_loss"] for run in runs)
    assert weighted == pytest.approx(plain, rel=1e-6)
    logged = [run.state.log_history[0]["loss"] for run in runs]
    assert logged[0] != pytest.approx(logged[1], rel=0.01)


def test_weights_travel_in_a_column_or_a_plain_data_set(tmp_path: Path) -> None:
    wanted = parameters(trained(WeightedTrainer, tmp_path, weights=WEIGHTS))
    column = Dataset.from_dict({**rows(), "weight": WEIGHTS.tolist()})
    assert gap(parameters(trained(WeightedTrainer, tmp_path, train_dataset=column)), wanted) == 0
    named = Dataset.from_dict({**rows(), "trust": WEIGHTS.tolist()})
    run = trained(WeightedTrainer, tmp_path, train_dataset=named, weights="trust")
    assert gap(parameters(run), wanted) == 0
    data = rows()
    listed = [
        {"features": torch.tensor(f), "labels": y}
        for f, y in zip(data["features"], data["labels"], strict=True)
    ]
    run = trained(WeightedTrainer, tmp_path, train_dataset=listed, weights=WEIGHTS)
    assert gap(parameters(run), wanted) < 1e-7


def test_other_losses(tmp_path: Path) -> None:
    def squared(outputs: Any, inputs: Any) -> torch.Tensor:
        wanted = functional.one_hot(inputs["labels"], CLASSES)
        return ((outputs["logits"] - wanted) ** 2).sum(-1)

    run = trained(WeightedTrainer, tmp_path, weights=WEIGHTS, sample_losses=squared)
    model = Classifier().double()
    data = rows()
    logits = model(torch.tensor(data["features"], dtype=torch.float64))["logits"]
    losses = ((logits - functional.one_hot(torch.tensor(data["labels"]), CLASSES)) ** 2).sum(-1)
    wanted = (torch.tensor(WEIGHTS) * losses).mean().item()
    assert run.state.log_history[0]["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    args = {"per_device_train_batch_size": 4, "max_steps": 6, "save_strategy": "steps"}
    args |= {"save_steps": 3}
    whole = trained(WeightedTrainer, tmp_path / "whole", args=args, weights=WEIGHTS)
    trained(WeightedTrainer, tmp_path / "cut", args=args, weights=WEIGHTS)
    again = WeightedTrainer(
        model=Classifier(seed=9),
        args=whole.args,
        train_dataset=Dataset.from_dict(rows()),
        weights=WEIGHTS,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert gap(parameters(again), parameters(whole)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no column 'weight'"),
        ({"weights": "trust"}, "no column 'trust'"),
        ({"weights": [1.0]}, "1 numbers and train_dataset 16 rows"),
        ({"weights": -WEIGHTS}, "weights must be finite and at least 0"),
        ({"weights": WEIGHTS, "temperature": 1.0}, "there is no reference_model"),
        ({"reference_model": Classifier()}, "needs a finite number above 0"),
        ({"reference_model": Classifier(), "temperature": 0.0}, "needs a finite number above 0"),
        (
            {"reference_model": Classifier(), "temperature": 1.0, "weights": WEIGHTS},
            "both given",
        ),
        (
            {"reference_model": Classifier(), "temperature": 1.0, "normalizer": "weights"},
            "known before the forward pass",
        ),
        ({"weights": WEIGHTS, "normalizer": "tokens"}, "'samples' or 'weights'"),
        ({"weights": WEIGHTS, "compute_loss_func": print}, "would bypass the weights"),
        ({"weights": WEIGHTS, "args": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(WeightedTrainer, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_two_processes_are_one(tmp_path: Path) -> None:
    source = Path(bequest.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(source.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("weighted_processes_run.py")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for normalizer in ("samples", "weights"):
        one = trained(WeightedTrainer, tmp_path / "one", weights=WEIGHTS, normalizer=normalizer)
        assert gap(load_file(tmp_path / f"{normalizer}.safetensors"), parameters(one)) < 2e-7
