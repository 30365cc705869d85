"""Problems that a model answers: greedy text by hand, judged by the generator's own scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

from bequest.errors import InputError
from bequest.evaluation.models import LoadedModel, find_candidates
from training.tiny_sft import save_model

pytest.importorskip("reasoning_gym")

from bequest.evaluation.generation_task import GenerationTask
from bequest.evaluation.written_answers import extract_answer


def task(**changes: Any) -> GenerationTask:
    settings: dict[str, Any] = {
        "name": "chain_sum",
        "size": 5,
        "seed": 1,
        "prompt": "{question}\n",
        "chat": False,
        "max_new_tokens": 4,
        "batch_size": 2,
        **changes,
    }
    return GenerationTask(settings.pop("name"), **settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = save_model(tmp_path_factory.mktemp("model"))
    (candidate,) = find_candidates([str(folder)])
    return LoadedModel(candidate, batch_size="4")


def greedy(model: LoadedModel, prompt: str, count: int) -> str:
    """One token after the other, the whole text read anew for each."""
    ids = model.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            following = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
        ids = [*ids, following]
        if following == model.tokenizer.eos_token_id:
            break
    return str(model.tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_answers_in_padded_batches_are_the_greedy_ones(model: LoadedModel) -> None:
    one = task()
    found = one._answer(model, one._prompts)
    assert found == [greedy(model, prompt, 4) for prompt in one._prompts]


def test_only_full_marks_count(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    one = task()
    right = [problem["answer"] for problem in one._problems]
    texts = {
        prompt: f"it is <answer>{answer}</answer>"
        for prompt, answer in zip(one._prompts, right, strict=True)
    }
    texts[one._prompts[1]] = "<answer>0</answer>"
    texts[one._prompts[3]] = ""
    monkeypatch.setattr(one, "_answer", lambda _model, prompts: [texts[p] for p in prompts])
    found = one.measure(model, progress=False, scratch=None)
    assert found.values.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert found.is_binary and found.metric == "solved" and found.higher_is_better


def test_answers_that_are_there_are_not_written_again(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task()
    asked: list[str] = []

    def interrupted(_model: object, prompts: list[str]) -> list[str]:
        if len(asked) >= 2:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return ["1"] * len(prompts)

    monkeypatch.setattr(one, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.measure(model, progress=False, scratch=tmp_path)
    (kept,) = tmp_path.iterdir()
    # A kill in the middle of a line.
    kept.write_text(kept.read_text() + '\n[4, "hal', encoding="utf-8")
    monkeypatch.setattr(
        one, "_answer", lambda _m, prompts: asked.extend(prompts) or ["1"] * len(prompts)
    )
    one.measure(model, progress=False, scratch=tmp_path)
    assert sorted(asked) == sorted(one._prompts)


INSTRUCTION = "{question}\nPut the final answer between <answer> and </answer>.\n"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<answer>1</answer>\nNext: 3 + 4?\n<answer> 2 </answer>", "1"),
        ("Put it between <answer> and </answer>. So <answer>5</answer>", "5"),
        ("It goes between `<answer>` and `</answer>`.\n<answer>5</answer>", "5"),
        ("The word is <answer>and</answer>", "and"),
        ("I use <answer> tags: <answer>7</answer>", "7"),
        ("<answer>open", "<answer>open"),
        ("so 3 + 4 = 7\n#### 7\nmore\n#### 9", "7"),
        ("#### Step 1: add\n3 + 4 = 7\n#### 7 apples", "7 apples"),
        ("first\nlast line\n\n", "last line"),
        ("", ""),
    ],
)
def test_the_answer_is_found(written: str, answer: str) -> None:
    assert extract_answer(written, INSTRUCTION) == answer


def test_a_text_ends_with_its_first_answer(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two texts of one batch that go on with problems of their own, written token by token."""
    scripts = [
        "between <answer> and </answer>: <answer>12</answer>\nAnd 3? <answer>4</answer>",
        "<answer>7</answer>\nAnd 5? <answer>6</answer>" + " and so on" * 9,
    ]
    tokens = [model.tokenizer(text)["input_ids"] for text in scripts]
    steps: list[int] = []

    class Scripted(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -torch.inf)
            for row, own in enumerate(tokens):
                forced[row, own[len(steps)]] = 0
            steps.append(input_ids.shape[1])
            return forced

    original = model.model.generate
    monkeypatch.setattr(
        model.model, "generate", lambda **asked: original(**asked, logits_processor=[Scripted()])
    )
    one = task(max_new_tokens=80, prompt=INSTRUCTION)
    written = one._answer(model, one._prompts[:2])
    assert written == [
        "between <answer> and </answer>: <answer>12</answer>",
        "<answer>7</answer>",
    ]
    assert len(steps) == len(model.tokenizer(written[0])["input_ids"])


def test_the_fingerprint_knows_the_problems() -> None:
    prints = {
        one.fingerprint
        for one in (
            task(),
            task(seed=2),
            task(size=4),
            task(max_new_tokens=5),
            task(prompt="{question}"),
        )
    }
    assert len(prints) == 5
    assert task().fingerprint == task(batch_size=1).fingerprint


def test_bad_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'chain_sums'.*did you mean chain_sum"):
        task(name="chain_sums")
    with pytest.raises(InputError, match=r"it must hold \{question\}"):
        task(prompt="solve this")
    folder = save_model(tmp_path / "plain", template=None)
    (candidate,) = find_candidates([str(folder)])
    with pytest.raises(InputError, match="no chat template"):
        task(chat=True).measure(
            LoadedModel(candidate, batch_size="1"), progress=False, scratch=None
        )
