"""Inheritune's whole algorithm on models of a few thousand weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from bequest.cli.main import main
from bequest.errors import InputError
from bequest.results import ACCOUNT
from bequest.training import inheritune, inheritune_stage, run_length
from bequest.training.divergence import DivergedError
from bequest.training.held_out_losses import HeldOutLosses
from bequest.training.inheritune import run_inheritune
from bequest.training.inheritune_cost import cost_section
from bequest.training.inheritune_stop import Gap, paired_gap
from training.tiny_inheritune import STEPS, plan, settings, weights, write_reference
from training.tiny_pretraining import texts, write_texts


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random reference of four blocks and texts."""
    return write_reference(tmp_path_factory.mktemp("inheritune"))


def losses(nats: Any, tokens: list[int]) -> HeldOutLosses:
    return HeldOutLosses(
        token_losses=np.asarray(nats, np.float32),
        tokens_per_document=np.array(tokens),
        bytes_per_document=np.array(tokens),
    )


def test_rounds_restart_from_the_reference_and_grow(given: Path, tmp_path: Path) -> None:
    planned = plan(given, tmp_path / "out")
    assert planned.depths == (2, 3, 4)
    told: list[str] = []
    result = run_inheritune(planned, report=told.append)
    assert [done.depth for done in result.rounds] == [2, 3, 4] and len(told) == 4
    reference = weights(given / "reference")
    for number, depth in enumerate((2, 3, 4), start=1):
        start = weights(tmp_path / "out" / f"round-{number:02d}" / "start")
        assert all(torch.equal(tensor, reference[name]) for name, tensor in start.items())
        assert f"model.layers.{depth - 1}.mlp.up_proj.weight" in start
        assert f"model.layers.{depth}.mlp.up_proj.weight" not in start
    for done in result.rounds:
        difference = done.losses["trained"].loss - result.reference.loss
        assert done.gap.mean == pytest.approx(difference, abs=1e-6)
        assert done.gap.low <= done.gap.mean <= done.gap.high
        assert done.tokens == STEPS * 2 * 16
    # The reference is measured as the rounds are: by its own forward pass.
    model = LlamaForCausalLM.from_pretrained(given / "reference")
    assert result.reference.loss == pytest.approx(reference_loss(planned, model), rel=1e-4)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(section["data"].get("rows", [])) for section in written["sections"][:-1]] == [
        4,
        0,
        2,
    ]
    assert written["sections"][-1]["title"] == ACCOUNT


def reference_loss(planned: Any, model: LlamaForCausalLM) -> float:
    """Every block by a forward pass of its own."""
    from bequest.training.token_blocks import fingerprint, open_blocks

    of = planned.reference
    key = fingerprint(of.documents, of.tokenizer)
    blocks = open_blocks(of.cache, key, of.documents, of.config.block_length).held_out
    total, count = 0.0, 0
    for row in range(len(blocks)):
        one = blocks[row]
        with torch.no_grad():
            logits = model(input_ids=one["input_ids"][None]).logits[0].double().log_softmax(-1)
        for place, label in enumerate(one["labels"][1:].tolist()):
            if label != -100:
                total, count = total - float(logits[place, label]), count + 1
    return total / count


def test_it_stops_at_the_first_round_that_matches(given: Path, tmp_path: Path) -> None:
    result = run_inheritune(plan(given, tmp_path / "out", tolerance=100.0))
    assert len(result.rounds) == 1 and "no worse than the reference" in result.reason
    budget = 2 * STEPS * 2 * 16
    result = run_inheritune(plan(given, tmp_path / "two", max_tokens=budget))
    assert len(result.rounds) == 2 and "max_tokens" in result.reason


def test_the_budget_counts_tokens_that_are_read(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that estimates too much lets no round go that the budget has room for."""
    training = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "learning_rate": 0.01}
    changes = {"steps_per_round": None, "pretrain": {"training": training}}
    (done,) = run_inheritune(plan(given, tmp_path / "one", max_rounds=1, **changes)).rounds
    monkeypatch.setattr(run_length, "_SAMPLED_CHARACTERS", 1)
    planned = plan(given, tmp_path / "out", max_tokens=2 * done.tokens, **changes)
    assert planned.reference.length.tokens_trained > done.tokens
    assert [one.depth for one in run_inheritune(planned).rounds] == [2, 3]


def test_continue_keeps_what_was_trained_and_lawa_may_be_the_candidate(
    given: Path, tmp_path: Path
) -> None:
    averages = {"averages": {"lawa": {"window": 2, "spacing": 1}}, "weights": "lawa"}
    planned = plan(given, tmp_path / "out", growth="continue", max_rounds=2, pretrain=averages)
    result = run_inheritune(planned)
    assert list(result.rounds[0].losses) == ["trained", "lawa"]
    difference = result.rounds[1].losses["lawa"].loss - result.reference.loss
    assert result.rounds[1].gap.mean == pytest.approx(difference, abs=1e-6)
    before = weights(tmp_path / "out" / "round-01" / "model")
    start = weights(tmp_path / "out" / "round-02" / "start")
    reference = weights(given / "reference")
    for name, tensor in start.items():
        other = reference if ".layers.2." in name else before
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("where", ["inherit", "run_pretrain", "save_losses", "write_results"])
def test_a_run_broken_off_between_its_steps_goes_on(
    where: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies right after what `where` names, the second time that it happens, if it does twice."""
    owner = inheritune_stage if where in ("inherit", "run_pretrain") else inheritune
    real, calls = getattr(owner, where), []

    def die(*arguments: Any, **named: Any) -> Any:
        made = real(*arguments, **named)
        calls.append(1)
        if len(calls) == (2 if where in ("inherit", "run_pretrain") else 1):
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(owner, where, die)
    with pytest.raises(KeyboardInterrupt):
        run_inheritune(plan(given, tmp_path / "out", max_rounds=2))
    monkeypatch.undo()
    result = run_inheritune(plan(given, tmp_path / "out", max_rounds=2))
    assert [done.depth for done in result.rounds] == [2, 3]
    again = run_inheritune(plan(given, tmp_path / "out", max_rounds=2))
    assert [done.gap for done in again.rounds] == [done.gap for done in result.rounds]


def test_the_gap_is_paired_by_documents() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(1, 30, size=40).tolist()
    easy = random.gamma(2.0, size=sum(tokens))
    gap = paired_gap(losses(easy + 0.1, tokens), losses(easy, tokens))
    assert gap.mean == pytest.approx(0.1, abs=1e-5)
    assert gap.high - gap.low < 1e-5, "what both share does not count"
    assert not gap.closed(0.0) and gap.closed(0.11)

    noisy = easy + random.normal(scale=0.5, size=len(easy))
    made = paired_gap(losses(noisy, tokens), losses(easy, tokens))
    differences = np.split(noisy - easy, np.cumsum(tokens)[:-1])
    slow = []
    for _ in range(4000):
        drawn = [differences[i] for i in random.integers(0, 40, size=40)]
        slow.append(np.concatenate(drawn).mean())
    assert (made.low, made.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)
    with pytest.raises(InputError, match="different held-out"):
        paired_gap(losses(easy, tokens), losses(easy[1:], [tokens[0] - 1, *tokens[1:]]))
    with pytest.raises(InputError, match="several"):
        paired_gap(losses([1.0], [1]), losses([1.0], [1]))
    assert Gap(mean=-0.2, low=-0.3, high=-0.1).closed(0.0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"start_depth": 5}, "start_depth is 5"),
        ({"start_depth": 0}, "start_depth is 0"),
        ({"growth": "shrink"}, "growth is 'shrink'"),
        ({"pretrain": {"model": "x"}}, "set reference"),
        ({"pretrain": {"modle": "x"}}, "pretrain.modle"),
        ({"pretrain": {"training": {"max_steps": 3}}}, "drop one"),
        ({"pretrain": {"weights": "lawa"}}, "lawa"),
        ({"pretrain": {"data": "none.jsonl"}}, "none.jsonl"),
        ({"reference": "/nowhere"}, "/nowhere"),
        ({"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_bad_input_costs_no_file(
    changes: dict[str, Any], found: str, given: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=found):
        plan(given, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_what_is_read_does_not_lie_in_out(given: Path, tmp_path: Path) -> None:
    """--overwrite would remove it with the rounds."""
    out = tmp_path / "out"
    shutil.copytree(given / "reference", out / "reference" / "model")
    (out / "run.json").write_text('{"identity": {}, "versions": ""}')
    before = sorted(tmp_path.rglob("*"))
    inside = out / "reference" / "model"
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("reference", {"reference": str(inside)}),
        ("held_out", {"pretrain": {"held_out": str(inside / "config.json")}}),
    )
    for field, change in changes:
        with pytest.raises(InputError, match=f"out .* overlaps {field} "):
            plan(given, out, overwrite=True, **change)
    assert sorted(tmp_path.rglob("*")) == before


def test_as_a_command(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings(given, tmp_path / "out", max_rounds=1)))
    assert main(["inheritune", "--config", str(config), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "dry run" in told and "all, at most" in told and not (tmp_path / "out").exists()
    assert main(["inheritune", "--config", str(config)]) == 0
    told = capsys.readouterr().out
    assert "round 1: 2 blocks" in told and "gap to the reference" in told
    assert main(["inheritune", "--config", str(config), "--growth", "continue"]) == 2
    assert "growth" in capsys.readouterr().err
    words = ["--out", str(tmp_path / "other"), "--json"]
    assert main(["inheritune", "--config", str(config), *words]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads((tmp_path / "other" / "results.json").read_text())
    assert not told.err


def test_checkpoints_of_finished_trainings_go(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(out: str) -> list[str]:
        return sorted(path.parent.name for path in (tmp_path / out).glob("round-*/model.run"))

    run_inheritune(plan(given, tmp_path / "out", max_rounds=1, keep_checkpoints=True))
    assert left("out") == ["round-01"]
    assert list((tmp_path / "out" / "round-01" / "model.run").glob("checkpoint-*"))

    def die(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    # The flag decides no number, so it may change.
    monkeypatch.setattr(inheritune_stage.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        run_inheritune(plan(given, tmp_path / "out", max_rounds=1))
    monkeypatch.undo()
    again = run_inheritune(plan(given, tmp_path / "out", max_rounds=2))
    assert left("out") == [] and len(again.rounds) == 2


def test_a_round_that_diverged_is_named(given: Path, tmp_path: Path) -> None:
    training = {"per_device_train_batch_size": 2, "learning_rate": 1e38, "max_grad_norm": 0.0}
    for _ in range(2):
        planned = plan(given, tmp_path / "out", pretrain={"training": training})
        with pytest.raises(DivergedError, match="round 1, 2 blocks: the run diverged") as raised:
            run_inheritune(planned)
        assert "lower pretrain.training.learning_rate" in str(raised.value)
    assert not (tmp_path / "out" / "round-01" / "model").exists()


def test_a_reference_without_a_loss_is_refused(tmp_path: Path) -> None:
    broken = write_reference(tmp_path)
    model = LlamaForCausalLM.from_pretrained(broken / "reference")
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    model.save_pretrained(broken / "reference")
    with pytest.raises(InputError, match="has a held-out loss of nan"):
        run_inheritune(plan(broken, tmp_path / "out"))


def test_the_reference_teaches_its_students(given: Path, tmp_path: Path) -> None:
    """Distilled alone from the reference, whose own text it never learns from."""
    teaching = {"distillation": {"weight": 1.0}}
    changes = {"max_rounds": 1, "pretrain": teaching, "start_depth": 4, "steps_per_round": 2}
    changes |= {"keep_checkpoints": True}
    planned = plan(given, tmp_path / "out", **changes)
    assert planned.reference.distillation.teacher == str(given / "reference")
    done = run_inheritune(planned).rounds[0]
    # All its blocks: it says what its teacher says, so there is nothing to learn at first.
    state = done.folder.with_name("model.run") / "checkpoint-2" / "trainer_state.json"
    log = json.loads(state.read_text())["log_history"]
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert log[0]["loss"] == pytest.approx(log[0]["kl"], abs=1e-6)
    record = json.loads((done.folder / "bequest.json").read_text())
    assert [item["role"] for item in record["inputs"]] == ["start", "teacher"]
    with pytest.raises(InputError, match=r"distillation\.weight"):
        plan(given, tmp_path / "out", **changes | {"pretrain": {"distillation": {"weight": 0.5}}})


def test_few_data_several_epochs(given: Path, tmp_path: Path) -> None:
    """v1's form: k of n blocks, a small budget of tokens, read several times, one round."""
    small = texts()[:12]
    write_texts(tmp_path / "small.jsonl", small)
    write_texts(tmp_path / "held_out.jsonl", texts(10, seed=9))
    training = {
        "num_train_epochs": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
    }
    data = {"data": str(tmp_path / "small.jsonl"), "held_out": str(tmp_path / "held_out.jsonl")}
    changes = {
        "steps_per_round": None,
        "start_depth": 1,
        "max_rounds": 1,
        "baselines": ("scratch",),
        "pretrain": {**data, "training": training},
    }
    planned = plan(given, tmp_path / "out", **changes)
    assert planned.depths == (1,)
    result = run_inheritune(planned)
    (done,) = result.rounds
    tokenizer = planned.reference.tokenizer
    stream = sum(1 + len(tokenizer.encode(text, add_special_tokens=False)) for text in small)
    per_epoch = -(-(stream // 16) // 2)
    assert done.tokens == 8 * (stream // 16) * 16
    assert stream // 16 % 2 == 1, "or the last step of an epoch would be like the others"
    log = json.loads((done.folder / "results.json").read_text())["sections"]
    (curve,) = [one for one in log if one["title"] == "Training loss"]
    values = curve["data"]["series"][0]["y"]
    assert len(values) == 8 * per_epoch
    assert np.mean(values[-per_epoch:]) < np.mean(values[:per_epoch]) - 0.5
    assert done.losses["trained"].loss < result.reference.loss
    assert weights(done.folder).keys() == weights(tmp_path / "out" / "round-01" / "start").keys()
    again = run_inheritune(plan(given, tmp_path / "out", **changes))
    assert again.rounds[0].gap == done.gap


def test_the_cost_is_told_before_the_run(given: Path, tmp_path: Path) -> None:
    names = ("stacking", "scratch-2x", "half-width")
    planned = plan(given, tmp_path / "out", max_rounds=2, baselines=names)
    data = cost_section(planned).data
    rows = {row[0]: dict(zip(data["columns"], row, strict=True)) for row in data["rows"]}
    trainings = ["round 1", "round 2", "stacking, first", "stacking", "scratch-2x", "half-width"]
    assert list(rows) == [*trainings, "all, at most"]
    result = run_inheritune(planned)
    read = sum(one.tokens for one in (*result.rounds, *result.baselines))
    assert rows["all, at most"]["tokens"] == read
    for name, done in zip(["round 1", "round 2"], result.rounds, strict=True):
        assert rows[name]["parameters"] == sum(t.numel() for t in weights(done.folder).values())
    for done in result.baselines:
        assert rows[done.name]["parameters"] == sum(
            t.numel() for t in weights(done.folder).values()
        )
        assert rows[done.name]["blocks"] == done.depth
    memory = "memory of weights, gradients, optimizer (GB)"
    assert rows["round 2"][memory] == 16e-9 * rows["round 2"]["parameters"]
    # Start and model, and two checkpoints with weights and two moments each.
    weight = 4e-9 * rows["round 2"]["parameters"]
    while_it_trains, leaves = "disk while it trains (GB), at most", "disk it leaves (GB)"
    assert rows["round 2"][while_it_trains] == pytest.approx((2 + 2 * 3) * weight)
    assert rows["round 2"][leaves] == pytest.approx(2 * weight)
    assert rows["scratch-2x"][leaves] == pytest.approx(4e-9 * rows["scratch-2x"]["parameters"])
    assert rows["all, at most"][leaves] == pytest.approx(sum(rows[n][leaves] for n in trainings))
    used = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.safetensors"))
    assert used / 1e9 == pytest.approx(rows["all, at most"][leaves], rel=0.1)
    budget = plan(given, tmp_path / "two", max_tokens=STEPS * 2 * 16, baselines=("scratch",))
    assert [row[0] for row in cost_section(budget).data["rows"]] == [
        "round 1",
        "scratch",
        "all, at most",
    ]
