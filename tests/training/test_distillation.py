"""The loss mixed with a teacher's distribution, held to whole tensors in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bequest.checkpoints.lineage import read_lineage
from bequest.errors import InputError, UnsupportedModelError
from bequest.training.distillation import DistillingTrainer
from bequest.training.kl_penalty import KlPenalty
from bequest.training.pretrain import run_pretrain
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.pretrain_plan import PretrainPlan, plan_pretrain
from bequest.training.pretrain_results import planned_section
from bequest.training.pretrain_trainer import PretrainTrainer
from bequest.training.tokenizer_training import train_tokenizer
from training.tiny_pretraining import LLAMA, settings, texts


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another shape, sure of what it says."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    torch.manual_seed(5)
    fields = {key: value for key, value in LLAMA.items() if key != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=270, **fields | {"hidden_size": 24}))
    with torch.no_grad():
        model.lm_head.weight *= 30
    model.save_pretrained(folder)
    train_tokenizer(texts(), 270).save_pretrained(folder)
    return folder


def plan(folder: Path, teacher: Path, **changes: Any) -> PretrainPlan:
    distillation = {"teacher": str(teacher), **changes.pop("distillation", {})}
    changes = {"tokenizer": str(teacher), "train_tokenizer": None, **changes}
    return plan_pretrain(PretrainConfig(**settings(folder, distillation=distillation, **changes)))


class Watched(DistillingTrainer):
    """Remembers each micro-batch."""

    seen: list[torch.Tensor]

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        if model.training:
            self.seen.append(inputs["input_ids"].clone())
        return super().compute_loss(model, inputs, *rest, **named)


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 2.0), (1.0, 1.0), (0.5, 0.7)])
def test_the_loss_and_its_gradient_are_the_dense_ones(
    weight: float, temperature: float, teacher: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Two steps with accumulation against a loop written out in float64 on whole logits."""
    monkeypatch.setattr("bequest.training.kl_penalty._CHUNK", 7)
    training = {
        "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "optim": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 1e9,
    }  # fmt: skip
    made = plan(
        tmp_path, teacher, schedule="constant", warmup=0, training=training,
        distillation={"weight": weight, "temperature": temperature},
    )  # fmt: skip
    Watched.seen = []
    done = run_pretrain(made, trainer_class=Watched)
    assert len(Watched.seen) == 4
    student = made.start.load(made.arguments.seed).double()
    taught = AutoModelForCausalLM.from_pretrained(teacher).double()
    for step in range(2):
        ids = torch.cat(Watched.seen[2 * step : 2 * step + 2])
        scores = student(input_ids=ids).logits[:, :-1].reshape(-1, 270)
        plain = torch.nn.functional.cross_entropy(scores, ids[:, 1:].reshape(-1))
        with torch.no_grad():
            wanted = taught(input_ids=ids).logits[:, :-1].reshape(-1, 270) / temperature
        p = wanted.softmax(-1)
        own = (scores / temperature).log_softmax(-1)
        kl = (p * (wanted.log_softmax(-1) - own)).sum(-1).mean()
        loss = (1 - weight) * plain + weight * temperature**2 * kl
        assert done.log[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert done.log[step]["kl"] == pytest.approx(kl.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    trained = AutoModelForCausalLM.from_pretrained(done.folder).double()
    for one, other in zip(trained.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_evaluations_are_plain_and_the_folder_names_the_teacher(
    teacher: Path, tmp_path: Path
) -> None:
    made = plan(tmp_path, teacher, training={"max_steps": 2})
    rows = dict(planned_section(made).data["rows"])
    count = sum(t.numel() for t in load_file(teacher / "model.safetensors").values())
    assert rows["parameters of the teacher"] == count
    assert rows["memory of the teacher (GB)"] == 4 * count / 1e9
    done = run_pretrain(made)
    logged = [entry["eval_loss"] for entry in done.log if "eval_loss" in entry]
    assert logged[-1] == pytest.approx(done.losses["trained"].loss)
    assert [item["role"] for item in read_lineage(done.folder)["inputs"]] == ["teacher"]
    assert "Distilled from `teacher` (0.5 of the loss" in (done.folder / "README.md").read_text()
    sections = json.loads((done.folder / "results.json").read_text())["sections"]
    assert "KL to the teacher" in {section["title"] for section in sections}


def test_in_bfloat16_it_is_about_the_same(teacher: Path, tmp_path: Path) -> None:
    assert plan(tmp_path, teacher, distillation={"weight": "5e-1"}).distillation.weight == 0.5
    exact = run_pretrain(plan(tmp_path, teacher, training={"max_steps": 1}))
    training = {"max_steps": 1, "bf16": True}
    rough = run_pretrain(plan(tmp_path, teacher, out=str(tmp_path / "b"), training=training))
    assert rough.log[0]["kl"] == pytest.approx(exact.log[0]["kl"], rel=0.02)
    assert rough.log[0]["loss"] != exact.log[0]["loss"]


def test_broken_off_it_ends_with_the_same_bytes(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 with dropout draws random numbers at each step; the teacher must draw none."""
    shape = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    whole = run_pretrain(plan(tmp_path, teacher, model_config=shape))
    real, calls = PretrainTrainer.training_step, []

    def die(self: PretrainTrainer, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    changes = {"model_config": shape, "out": str(tmp_path / "killed")}
    monkeypatch.setattr(PretrainTrainer, "training_step", die)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(plan(tmp_path, teacher, **changes))
    monkeypatch.undo()
    # The teacher may lie elsewhere by now; another one is refused.
    moved = teacher.rename(teacher.with_name("moved"))
    try:
        again = plan(tmp_path, moved, **changes)
        with pytest.raises(InputError, match=r"distillation\.weight"):
            plan(tmp_path, moved, distillation={"weight": 0.9}, **changes)
    finally:
        moved.rename(teacher)
    assert again.goes_on and again.resume.step == 2
    done = run_pretrain(plan(tmp_path, teacher, **changes))
    assert done.resumed_from == 2
    weights = [one.folder / "model.safetensors" for one in (whole, done)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    logs = [
        [(entry["loss"], entry["kl"]) for entry in one.log if "kl" in entry]
        for one in (whole, done)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 4


def test_a_run_without_a_teacher_is_still_the_run_that_it_was(
    teacher: Path, tmp_path: Path
) -> None:
    """Records of runs begun before there was distillation do not name it."""
    changes = {"tokenizer": str(teacher), "train_tokenizer": None}
    made = plan_pretrain(PretrainConfig(**settings(tmp_path, **changes)))
    assert "distillation" not in made.record and made.teacher is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"distillation": {"weight": 0}}, "distillation.weight is 0; give a share"),
        ({"distillation": {"weight": "half"}}, "distillation.weight is 'half'; give a number"),
        ({"distillation": {"temperature": -1.0}}, "distillation.temperature is -1.0"),
        ({"distillation": {"teacher": None}}, "distillation.teacher is missing"),
        ({"distillation": {"alpha": 1}}, "distillation has 'alpha'; it takes teacher, weight"),
        (
            {"distillation": {"teacher": "/nowhere"}},
            "distillation.teacher cannot be used: .*/nowhere",
        ),
        ({"tokenizer": None, "train_tokenizer": 270}, "train_tokenizer makes tokens that"),
        ({"training": {"torch_compile": True}}, "training.torch_compile and distillation exclude"),
        ({"model_config": {**LLAMA, "vocab_size": 280}}, "predicts 270 tokens and the model 280"),
    ],
)
def test_refused_before_a_file_is_made(
    changes: dict[str, Any], found: str, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=found):
        plan(tmp_path, teacher, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_a_teacher_of_other_tokens_is_refused(teacher: Path, tmp_path: Path) -> None:
    train_tokenizer(texts(seed=3), 270).save_pretrained(tmp_path / "other")
    other = {"tokenizer": str(tmp_path / "other")}
    with pytest.raises(InputError, match="has another tokenizer than the model"):
        plan(tmp_path, teacher, **other)


def test_a_trainer_with_a_loss_of_its_own_is_refused(teacher: Path, tmp_path: Path) -> None:
    class Own(PretrainTrainer):
        pass

    with pytest.raises(InputError, match="Own is no DistillingTrainer"):
        run_pretrain(plan(tmp_path, teacher), trainer_class=Own)


def test_hidden_states_that_change_before_the_head_are_refused() -> None:
    """A head that scales what the body hands over would make the KL that of other logits."""

    class Scaling(LlamaForCausalLM):
        def forward(self, input_ids: Any = None, **named: Any) -> Any:
            found = self.model(input_ids=input_ids)
            found.logits = self.lm_head(found.last_hidden_state / 8)
            return found

    fields = {key: value for key, value in LLAMA.items() if key != "model_type"}
    with pytest.raises(UnsupportedModelError, match="changes its last hidden states"):
        KlPenalty(Scaling(LlamaConfig(vocab_size=64, **fields)))
