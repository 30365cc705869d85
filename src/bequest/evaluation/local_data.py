"""Questions of local files as lm-eval tasks: BIG-bench's JSON, and JSON lines of any generator.

`task_templates/` holds the YAML that names these functions; bequest ships no data.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError

if TYPE_CHECKING:
    from datasets import DatasetDict

TEMPLATES = Path(__file__).parent / "task_templates"
SUFFIXES = (".json", ".jsonl")


def read_questions(path: str | Path, **_settings: Any) -> DatasetDict:
    """Read a file of questions as lm-eval's data set, its split being `test`.

    Args:
        path: a BIG-bench task (`.json`, an object with "examples"), or JSON lines (`.jsonl`) of
            {"question" or "prompt", "answer", "choices"?}, the answer being the right choice, its
            number, or the text that is to be written.

    Raises:
        InputError: there is no such file, or a question in it is not of this form.
    """
    from datasets import Dataset, DatasetDict

    return DatasetDict({"test": Dataset.from_list(list(questions(Path(path).expanduser())))})


def any_answer(doc: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """Score a written answer: 1 if it is one of those asked for, up to case and outer space."""
    written = results[0].strip().casefold()
    return {"exact_match": float(any(written == a.strip().casefold() for a in doc["answers"]))}


def any_choice(doc: Mapping[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Score a choice: 1 if the likeliest is a right one; by character too, as lm-eval does.

    BIG-bench has questions with several right choices.
    """
    scores = [result[0] for result in results]
    per_character = [s / max(1, len(c)) for s, c in zip(scores, doc["choices"], strict=True)]
    return {
        name: float(max(range(len(own)), key=own.__getitem__) in doc["answers"])
        for name, own in (("acc", scores), ("acc_norm", per_character))
    }


def write_task(path: Path, folder: Path) -> Path:
    """Write the YAML that makes an lm-eval task of a file of questions, and return its path.

    Args:
        path: the file.
        folder: where to write `NAME.yaml`, NAME being that of the file, or of its folder if it is
            called `task.json` as in BIG-bench.

    Raises:
        InputError: the file is at fault, or mixes questions with and without choices.
    """
    kinds = {"choices" in question for question in questions(path)}
    if len(kinds) != 1:
        found = "no questions" if not kinds else "questions with choices and others without"
        raise InputError(f"task {path} holds {found}; give a file of one kind")
    template = TEMPLATES / ("multiple_choice.yaml" if kinds.pop() else "exact_answer.yaml")
    body = "".join(
        line
        for line in template.read_text(encoding="utf-8").splitlines(keepends=True)
        if not line.startswith("#")
    )
    settings = {"path": str(path.absolute())}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{task_name(path)}.yaml"
    target.write_text(
        f"task: {json.dumps(task_name(path))}\ndataset_kwargs: {json.dumps(settings)}\n{body}",
        encoding="utf-8",
    )
    return target


def task_name(path: Path) -> str:
    """Return what a file's task is called."""
    return path.absolute().parent.name if path.name == "task.json" else path.stem


def questions(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each question as {"prompt", "choices", "answer", "answers"} or {"prompt", "answers"}.

    Of choices, `answers` holds the numbers of all right ones and `answer` the first of them.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        raise InputError(f"task {path} is no file of {' or '.join(SUFFIXES)}; name one")
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            yield from _bigbench(json.loads(content), path)
            return
        # Not `splitlines`: JSON may hold U+2028 and other ends of lines as they are.
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                yield _plain(json.loads(line), f"task {path}, line {number}")
    except (OSError, ValueError) as error:
        raise InputError(f"task {path} cannot be read: {error}") from error


def _plain(row: Any, place: str) -> dict[str, Any]:
    text = row.get("prompt", row.get("question")) if isinstance(row, dict) else None
    if not isinstance(text, str) or "answer" not in row:
        raise InputError(f'{place}: give an object with a "question" or "prompt", and an "answer"')
    prompt = text if "prompt" in row else f"Question: {text}\nAnswer:"
    choices, answer = row.get("choices"), row["answer"]
    if choices is None:
        return {"prompt": prompt, "answers": [str(answer)]}
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(f"{place}: its answer {answer!r} is none of its {len(choices)} choices")
    named = [str(choice) for choice in choices]
    return {"prompt": prompt, "choices": named, "answer": answer, "answers": [answer]}


def _bigbench(task: Any, path: Path) -> Iterator[dict[str, Any]]:
    if not isinstance(task, dict) or not isinstance(task.get("examples"), list):
        raise InputError(f'task {path} is no BIG-bench task: it has no list "examples"')
    for number, example in enumerate(task["examples"]):
        place = f"task {path}, example {number}"
        if not isinstance(example, dict) or not isinstance(example.get("input"), str):
            raise InputError(f'{place}: it has no "input"')
        start = task.get("task_prefix", "") + task.get("example_input_prefix", "\nQ: ")
        end = task.get("example_output_prefix", "\nA: ").rstrip()
        scores = example.get("target_scores")
        if isinstance(scores, dict) and scores:
            # In some tasks the right choice is nearly always the last.
            choices = sorted(scores)
            random.Random(example["input"]).shuffle(choices)
            shown = ""
            if task.get("append_choices_to_input", True):
                prefix = task.get("example_choice_prefix", "\n  choice: ")
                shown = "".join(prefix + choice for choice in choices)
            prompt = f"{start}{example['input']}{shown}{end}".lstrip()
            best = _best(scores, choices, place)
            yield {"prompt": prompt, "choices": choices, "answer": best[0], "answers": best}
        elif example.get("target") not in (None, "", []):
            target = example["target"]
            answers = target if isinstance(target, list) else [target]
            prompt = f"{start}{example['input']}{end}".lstrip()
            yield {"prompt": prompt, "answers": [str(answer) for answer in answers]}
        else:
            raise InputError(f'{place}: it has neither "target_scores" nor a "target"')


def _best(scores: Mapping[str, Any], choices: list[str], place: str) -> list[int]:
    """Return the numbers of the choices with the highest score."""
    wrong = [score for score in scores.values() if not isinstance(score, int | float)]
    if wrong:
        raise InputError(
            f'{place}: its "target_scores" hold {wrong[0]!r}; give each choice a number'
        )
    most = max(scores.values())
    return [number for number, choice in enumerate(choices) if scores[choice] == most]
