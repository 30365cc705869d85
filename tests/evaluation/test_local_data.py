"""Files of questions that become lm-eval tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bequest.errors import InputError
from bequest.evaluation.held_out import read_texts
from bequest.evaluation.local_data import (
    any_answer,
    any_choice,
    questions,
    task_name,
    write_task,
)

BIGBENCH = {
    "name": "colours",
    "task_prefix": "Choose. ",
    "example_input_prefix": "\nQ: ",
    "example_output_prefix": "\nA: ",
    "examples": [
        {"input": "Grass?", "target_scores": {"green": 1, "red": 0, "blue": 0}},
        {"input": "Sky?", "target_scores": {"green": 0, "red": 0, "blue": 1}},
    ],
}


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: object) -> str:
    return "\n\n".join(json.dumps(row) for row in rows) + "\n"


def test_bigbench_questions_show_their_choices_shuffled(tmp_path: Path) -> None:
    path = write(tmp_path / "colours" / "task.json", BIGBENCH)
    found = list(questions(path))
    assert [row["choices"][row["answer"]] for row in found] == ["green", "blue"]
    for row, word in zip(found, ("Grass?", "Sky?"), strict=True):
        shown = "".join(f"\n  choice: {choice}" for choice in row["choices"])
        assert row["prompt"] == f"Choose. \nQ: {word}{shown}\nA:"
    assert list(questions(path)) == found
    assert task_name(path) == "colours"
    # The right one does not stand where the file has it: over many items, everywhere.
    many = [{"input": f"{n}", "target_scores": {"a": 0, "b": 0, "c": 1}} for n in range(60)]
    places = [row["answer"] for row in questions(write(tmp_path / "m.json", {"examples": many}))]
    assert min(places.count(place) for place in range(3)) > 8


def test_bigbench_answers_to_be_written(tmp_path: Path) -> None:
    task = {"examples": [{"input": "2+2", "target": ["4", "four"]}, {"input": "1", "target": "1"}]}
    found = list(questions(write(tmp_path / "sums.json", task)))
    assert [row["answers"] for row in found] == [["4", "four"], ["1"]]
    assert any_answer(found[0], [" Four\n"]) == {"exact_match": 1.0}
    assert any_answer(found[0], ["44"]) == {"exact_match": 0.0}


def test_json_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl",
        lines(
            {"question": "Two?", "choices": ["1", "2"], "answer": "2"},
            {"prompt": "Two:", "choices": ["1", "2"], "answer": 1},
        ),
    )
    assert list(questions(path)) == [
        {"prompt": prompt, "choices": ["1", "2"], "answer": 1, "answers": [1]}
        for prompt in ("Question: Two?\nAnswer:", "Two:")
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ends_of_lines_that_json_may_hold_end_none(tmp_path: Path, end: str) -> None:
    held = "one\u2028two\u0085three\u2029four"
    file = tmp_path / "lines.jsonl"
    rows = [
        {"prompt": held, "answer": "y", "text": held},
        {"prompt": "x", "answer": 0, "text": "x"},
    ]
    content = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    file.write_bytes(content.encode())
    assert [row["prompt"] for row in questions(file)] == [held, "x"]
    assert read_texts(file) == [held, "x"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lines({"question": "x"}), "line 1: give an object"),
        (lines(["x"]), "line 1: give an object"),
        (lines({"question": "x", "answer": "c", "choices": ["a"]}), "'c' is none of its 1 choices"),
        (lines({"question": "x", "answer": 1, "choices": ["a"]}), "none of its 1"),
        (lines({"question": "x", "answer": True, "choices": ["a", "b"]}), "none of its 2"),
        ("{", "cannot be read"),
        ("", "no questions"),
        (
            lines({"prompt": "x", "answer": "y"}, {"prompt": "x", "answer": 0, "choices": ["y"]}),
            "with choices and others without",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = write(tmp_path / "bad.jsonl", content)
    with pytest.raises(InputError, match=words):
        write_task(path, tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_every_best_choice_of_bigbench_is_right(tmp_path: Path) -> None:
    scores = {"red": 1, "green": 0, "blue": 1}
    task = {"examples": [{"input": "A colour of fire?", "target_scores": scores}]}
    (found,) = questions(write(tmp_path / "fire.json", task))
    assert sorted(found["choices"][number] for number in found["answers"]) == ["blue", "red"]
    assert found["answer"] == min(found["answers"])
    for likeliest, right in (("red", 1.0), ("blue", 1.0), ("green", 0.0)):
        results = [(-1.0 if choice == likeliest else -9.0, False) for choice in found["choices"]]
        assert any_choice(found, results)["acc"] == right


def test_a_target_of_nought_is_a_target(tmp_path: Path) -> None:
    task = {"examples": [{"input": "1 - 1", "target": 0}, {"input": "2 - 2", "target": [0, "0.0"]}]}
    found = list(questions(write(tmp_path / "nought.json", task)))
    assert [row["answers"] for row in found] == [["0"], ["0", "0.0"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"examples": [{"input": "x", "target": ""}]}, "neither"),
        ({"examples": [{"input": "x", "target_scores": {"a": "1"}}]}, "give each choice a number"),
        ([1], "no list"),
        ({"examples": [{"target": "x"}]}, "example 0: it has no"),
        ({"examples": [{"input": "x"}]}, "neither"),
        ({"examples": []}, "no questions"),
    ],
)
def test_bad_bigbench_files_are_named(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_task(write(tmp_path / "bad.json", content), tmp_path)
    with pytest.raises(InputError, match=r"no file of \.json"):
        list(questions(tmp_path / "none.json"))


def test_the_written_yaml_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "it's: one.jsonl", lines({"prompt": "x", "answer": "y"}))
    written = write_task(path, tmp_path / "tasks")

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load(written.read_text(encoding="utf-8"), Loader)
    assert task["task"] == "it's: one"
    assert task["dataset_kwargs"] == {"path": str(path)}
    assert task["output_type"] == "generate_until"
    assert task["custom_dataset"] == "bequest.evaluation.local_data.read_questions"
