"""The target, whose samples are of unlike difficulty, and the probes, which are not about it."""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROWN = ROOT / ".cache" / "assets" / "brown" / "held_out.jsonl"

SHARES = {
    "gsm_symbolic": 4,
    "sentence_reordering": 1,
    "basic_arithmetic": 1,
    "caesar_cipher": 1,
    "spell_backward": 1,
}
"""The tasks of reasoning-gym in the target, and how many of eight samples are of each: word
problems with worked solutions, which the model finds easy, beside tasks that it cannot do."""
HELD_OUT_SEED = 1_000_003
LONGEST = 380
"""Characters of a sample; longer ones are left out, so that a step is cheap."""

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Poland": "Warsaw",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Iceland": "Reykjavik",
    "Ireland": "Dublin",
    "Belgium": "Brussels",
    "Switzerland": "Bern",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Morocco": "Rabat",
    "Kenya": "Nairobi",
    "Ethiopia": "Addis Ababa",
    "Nigeria": "Abuja",
    "Ghana": "Accra",
    "Iraq": "Baghdad",
    "Iran": "Tehran",
    "Lebanon": "Beirut",
    "Pakistan": "Islamabad",
    "India": "New Delhi",
    "Nepal": "Kathmandu",
    "China": "Beijing",
    "Japan": "Tokyo",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Indonesia": "Jakarta",
    "Australia": "Canberra",
    "Canada": "Ottawa",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Argentina": "Buenos Aires",
    "Colombia": "Bogota",
    "Venezuela": "Caracas",
}
SYMBOLS = {
    "hydrogen": "H",
    "helium": "He",
    "carbon": "C",
    "nitrogen": "N",
    "oxygen": "O",
    "sodium": "Na",
    "iron": "Fe",
    "copper": "Cu",
    "silver": "Ag",
    "gold": "Au",
    "lead": "Pb",
    "calcium": "Ca",
    "potassium": "K",
    "zinc": "Zn",
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text of which the end is predicted."""

    group: str
    """The probe, or the task of the target."""
    prompt: str
    """What is read and not predicted; empty for running text."""
    answer: str
    """What is predicted."""
    is_chat: bool
    """Whether it is asked and answered in the chat template."""


@cache
def _generated(task: str, seed: int, count: int) -> list[Item]:
    import reasoning_gym

    items: list[Item] = []
    for row in reasoning_gym.create_dataset(task, size=8 * count, seed=seed):
        answer = row["answer"]
        if task == "gsm_symbolic":
            answer = row["metadata"]["answer_cot"].strip()
        if len(row["question"]) + len(answer) <= LONGEST and len(items) < count:
            items.append(Item(group=task, prompt=row["question"], answer=answer, is_chat=True))
    if len(items) < count:
        raise SystemExit(f"{task} has only {len(items)} of {count} samples of {LONGEST} characters")
    return items


def target(count: int, seed: int) -> list[Item]:
    """Samples of the target, in no order; those of the held-out set are of HELD_OUT_SEED."""
    whole = sum(SHARES.values())
    return [
        item
        for task, share in SHARES.items()
        for item in _generated(task, seed, count * share // whole)
    ]


def probes(texts: int = 20, text_bytes: int = 300) -> Iterator[Item]:
    """What the model should not forget: running text, and answers it knows, plain and in a chat."""
    brown = [json.loads(line)["text"] for line in BROWN.read_text("utf-8").splitlines()]
    # The manual of Python comes with Python.
    manual = [text for _, text in sorted(pydoc_data.topics.topics.items()) if len(text) > 2000]
    for group, all_texts in (("brown", brown), ("python docs", manual)):
        for text in all_texts[:: len(all_texts) // texts][:texts]:
            middle = text[len(text) // 2 :].encode()[:text_bytes].decode(errors="ignore")
            yield Item(group=group, prompt="", answer=middle.strip(), is_chat=False)
    facts = [("The capital of", "What is the capital of", *fact) for fact in CAPITALS.items()]
    symbol = ("The chemical symbol of", "What is the chemical symbol of")
    facts += [(*symbol, *fact) for fact in SYMBOLS.items()]
    for statement, question, subject, answer in facts[::2]:
        said = f"{statement} {subject} is"
        yield Item(group="facts", prompt=said, answer=f" {answer}.", is_chat=False)
        yield Item(
            group="facts in chat",
            prompt=f"{question} {subject}?",
            answer=f"{said} {answer}.",
            is_chat=True,
        )


def as_row(item: Item) -> dict[str, Any]:
    """A sample of the target as TRL takes it."""
    return {
        "prompt": [{"role": "user", "content": item.prompt}],
        "completion": [{"role": "assistant", "content": item.answer}],
    }
