"""lm-eval's tasks item by item: the same numbers as lm-eval's own, and as a slow hand count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bequest.errors import InputError
from bequest.evaluation.models import LoadedModel, find_candidates
from training.tiny_sft import save_model

pytest.importorskip("lm_eval")

from bequest.evaluation.harness_task import HarnessTask
from bequest.evaluation.harness_tasks import load_tasks
from bequest.evaluation.local_data import questions
from bequest.evaluation.resumed_harness import ResumedHarness

QUESTIONS = [
    {"question": f"What comes after {n}?", "choices": [str(n), str(n + 1), "x" * n], "answer": 1}
    for n in range(1, 13)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = save_model(tmp_path_factory.mktemp("model"))
    (candidate,) = find_candidates([str(folder)])
    return LoadedModel(candidate, batch_size="4")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(*names: object, written: Path, **options: Any) -> list[HarnessTask]:
    settings = {"task_folder": None, "num_fewshot": None, "chat": False, "limit": None, **options}
    return load_tasks([str(name) for name in names], written=written, **settings)


def by_hand(folder: Path, rows: list[dict[str, Any]]) -> list[float]:
    """Whether the likeliest choice is the right one, a forward pass a choice, in float64."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reader = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    right = []
    for row in rows:
        context = tokenizer.encode(row.get("prompt") or f"Question: {row['question']}\nAnswer:")
        totals = []
        for choice in row["choices"]:
            said = tokenizer.encode(" " + choice)
            with torch.no_grad():
                logits = reader(torch.tensor([context + said])).logits[0]
            log_probs = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
            totals.append(float(log_probs[range(len(said)), said].sum()))
        right.append(float(int(np.argmax(totals)) == row["answer"]))
    return right


def test_choices_are_scored_as_by_hand_and_as_by_lm_eval(
    model: LoadedModel, tmp_path: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    data = write_lines(tmp_path / "after.jsonl", QUESTIONS)
    (task,) = load(data, written=tmp_path / "w")
    assert (task.name, task.num_items) == ("after", 12)
    assert task.bytes_read > sum(len(row["question"]) * 3 for row in QUESTIONS)
    found = task.measure(model, progress=False, scratch=None)
    assert found is not None and found.is_binary and found.higher_is_better
    assert found.metric == "acc"
    assert found.values.tolist() == by_hand(model.candidate.folder, QUESTIONS)
    assert 0 < found.score < 1, "the comparison would show nothing"
    (again,) = load(data, written=tmp_path / "w")
    own = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model.candidate.folder), "softmax_dtype": "float32"},
        tasks=list(again._tasks.values()),
        batch_size=4,
        bootstrap_iters=0,
        device="cpu",
        task_manager=TaskManager(include_defaults=False),
    )
    assert own["results"]["after"]["acc,none"] == pytest.approx(found.score)
    samples = sorted(own["samples"]["after"], key=lambda sample: sample["doc_id"])
    assert [sample["acc"] for sample in samples] == found.values.tolist()


def test_another_metric_can_be_chosen_and_none_that_is_not_there(
    model: LoadedModel, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "after.jsonl", QUESTIONS)
    plain, normed, wrong = load(
        data, f"{data}:acc_norm", f"{data}:f2", written=tmp_path / "w", limit=3
    )
    assert plain.num_items == 3
    found = normed.measure(model, progress=False, scratch=None)
    assert found is not None and found.metric == "acc_norm" and len(found.ids) == 3
    assert len({plain.fingerprint, normed.fingerprint}) == 2
    with pytest.raises(InputError, match=r"no metric 'f2' .* it has: acc, acc_norm"):
        wrong.measure(model, progress=False, scratch=None)


def test_written_answers_are_matched(model: LoadedModel, tmp_path: Path) -> None:
    rows = [{"prompt": "a b c", "answer": "d"}, {"prompt": "a b c", "answer": "d"}]
    (task,) = load(write_lines(tmp_path / "w.jsonl", rows), written=tmp_path / "w")
    found = task.measure(model, progress=False, scratch=None)
    assert found is not None and found.metric == "exact_match"
    # The same question twice is two items, told apart by their order.
    assert found.ids[1] == f"{found.ids[0]}#2"


def test_a_bigbench_file_goes_through_lm_eval(model: LoadedModel, tmp_path: Path) -> None:
    """Several choices may be right; the test's model prefers now one and now another."""
    examples = [
        {"input": f"Which of {n} and {n + 1}?", "target_scores": {str(n): 1, "xyz": 0, "ab": 1}}
        for n in range(12)
    ]
    folder = tmp_path / "either"
    folder.mkdir()
    content = {"task_prefix": "Say. ", "examples": examples}
    (folder / "task.json").write_text(json.dumps(content), encoding="utf-8")
    written = tmp_path / "sums.json"
    written.write_text(json.dumps({"examples": [{"input": "1 - 1", "target": 0}] * 2}))
    chosen, wrote = load(folder / "task.json", written, written=tmp_path / "w")
    assert (chosen.name, chosen.num_items) == ("either", 12)
    found = chosen.measure(model, progress=False, scratch=None)
    assert found is not None and found.metric == "acc"
    rows = list(questions(folder / "task.json"))
    right = [
        max(by_hand(model.candidate.folder, [{**row, "answer": n}])[0] for n in row["answers"])
        for row in rows
    ]
    only_first = by_hand(model.candidate.folder, rows)
    assert found.values.tolist() == right != only_first
    said = wrote.measure(model, progress=False, scratch=None)
    assert said is not None and said.metric == "exact_match" and len(said.ids) == 2


def test_examples_are_turns_of_a_chat_as_in_lm_eval(model: LoadedModel, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    data = write_lines(tmp_path / "after.jsonl", QUESTIONS)
    (task,) = load(data, written=tmp_path / "w", num_fewshot=2, chat=True)
    (own_task,) = load(data, written=tmp_path / "w")
    found = task.measure(model, progress=False, scratch=None)
    own = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model.candidate.folder), "softmax_dtype": "float32"},
        tasks=list(own_task._tasks.values()),
        num_fewshot=2,
        apply_chat_template=True,
        batch_size=4,
        bootstrap_iters=0,
        device="cpu",
        task_manager=TaskManager(include_defaults=False),
    )
    asked = [sample["arguments"] for sample in own["samples"]["after"]]
    (ours,) = task._tasks.values()
    texts = {instance.args[0] for instance in ours.instances}
    assert all(text.count("<s>assistant: ") == 3 for text in texts)
    assert texts == {text for arguments in asked for text, _ in arguments}
    samples = sorted(own["samples"]["after"], key=lambda sample: sample["doc_id"])
    assert found is not None
    assert [sample["acc"] for sample in samples] == found.values.tolist()


@pytest.mark.parametrize("kind", ["choices", "written"])
def test_an_interrupted_task_goes_on(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rows = QUESTIONS
    if kind == "written":
        rows = [{"prompt": f"a b {n}", "answer": "d"} for n in range(12)]
    data = write_lines(tmp_path / "t.jsonl", rows)
    whole, broken, again = load(data, data, data, written=tmp_path / "w")
    expected = whole.measure(model, progress=False, scratch=None)
    told = 0
    original = ResumedHarness.add_partial

    def interrupted(self: ResumedHarness, *answer: Any) -> None:
        nonlocal told
        told += 1
        if told > 7:
            raise KeyboardInterrupt
        original(self, *answer)

    monkeypatch.setattr(ResumedHarness, "add_partial", interrupted)
    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        broken.measure(model, progress=False, scratch=scratch)
    monkeypatch.undo()
    (kept,) = scratch.iterdir()
    kept.write_text(kept.read_text() + '\n["half', encoding="utf-8")
    run: list[int] = []
    name = "loglikelihood" if kind == "choices" else "generate_until"
    own = getattr(type(model.harness), name)

    def counting(self: Any, requests: list[Any], **options: Any) -> Any:
        run.append(len(requests))
        return own(self, requests, **options)

    monkeypatch.setattr(type(model.harness), name, counting)
    found = again.measure(model, progress=False, scratch=scratch)
    assert found is not None and expected is not None
    assert run == [(36 if kind == "choices" else 12) - 7]
    assert found.values.tolist() == expected.values.tolist() and found.ids == expected.ids
    # All of it is there now, and a model that has nothing to resume keeps nothing.
    (last,) = load(data, written=tmp_path / "w")
    once_more = last.measure(model, progress=False, scratch=scratch)
    assert once_more is not None and once_more.values.tolist() == expected.values.tolist()
    assert len(run) == 1
    before = kept.read_text()
    last.measure(model, progress=False, scratch=None)
    assert kept.read_text() == before


def test_a_group_is_one_task(model: LoadedModel, tmp_path: Path) -> None:
    for name, rows in (("low", QUESTIONS[:5]), ("high", QUESTIONS[5:])):
        write_lines(tmp_path / f"{name}.jsonl", rows)
        load(tmp_path / f"{name}.jsonl", written=tmp_path / "yaml")
    (tmp_path / "yaml" / "both.yaml").write_text(
        "group: both\ntask: [low, high]\n", encoding="utf-8"
    )
    (task,) = load("both", written=tmp_path / "w", task_folder=str(tmp_path / "yaml"))
    assert task.num_items == 12
    found = task.measure(model, progress=False, scratch=None)
    assert found is not None
    assert {id_.partition("/")[0] for id_ in found.ids} == {"low", "high"}
    assert sorted(found.values) == sorted(by_hand(model.candidate.folder, QUESTIONS))


def test_the_fingerprint_is_of_what_is_read_not_of_where(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "after.jsonl", QUESTIONS)
    (tmp_path / "moved").mkdir()
    two = write_lines(tmp_path / "moved" / "after.jsonl", QUESTIONS)
    (first,), (second,) = load(one, written=tmp_path / "a"), load(two, written=tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    changed = [*QUESTIONS[:-1], {**QUESTIONS[-1], "answer": 0}]
    (third,) = load(write_lines(two, changed), written=tmp_path / "c")
    assert third.fingerprint != first.fingerprint
    (shots,) = load(one, written=tmp_path / "d", num_fewshot=2)
    assert shots.fingerprint != first.fingerprint


def test_what_is_no_task_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A data set that names no files takes those of the working folder: not of a whole checkout.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        load(tmp_path / "none.yaml", written=tmp_path)
    with pytest.raises(InputError, match="task_folder"):
        load("x", written=tmp_path, task_folder=str(tmp_path / "nowhere"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: broken\ndataset_path: json\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.yaml cannot be loaded"):
        load(broken, written=tmp_path)


@pytest.mark.slow
def test_a_misspelled_stock_name_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'helaswag' is no task of lm-eval .*hellaswag"):
        load("helaswag", written=tmp_path)
