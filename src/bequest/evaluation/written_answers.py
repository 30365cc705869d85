"""The answer in what a model writes, and the moment at which it has been given."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_CLOSING = "</answer>"
_CLOSING_TOKENS = 16
"""More than the closing tag takes in any tokenizer, that of single bytes included."""
_MARKED = re.compile(r"####[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_AROUND = " \t\n`'\"*"


def extract_answer(written: str, prompt: str = "") -> str:
    """Return the part of a model's text that is its answer.

    What stands in the first whole `<answer>` tags; or else in the first line that is `####` and a
    word, as GSM8K writes it, or after the last `####`; or else the last line.

    Args:
        written: the text.
        prompt: how problems are put; what it says of the tags is no answer where it is repeated.
    """
    end = end_of_answer(written, prompt)
    if end is not None:
        return written[:end].rpartition("<answer>")[2].removesuffix(_CLOSING).strip()
    marked = _MARKED.search(written)
    if marked is not None:
        return marked[1]
    if "####" in written:
        return written.rpartition("####")[2].strip().split("\n")[0].strip()
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def end_of_answer(written: str, prompt: str = "") -> int | None:
    """Return where the first whole tagged answer ends; None if there is none yet.

    Args:
        written: as for `extract_answer`.
        prompt: likewise.
    """
    # "between <answer> and </answer>", perhaps in quotation marks; <answer>and</answer> is meant.
    said = {inner.strip(_AROUND) for inner in _TAGGED.findall(prompt)}
    for found in _TAGGED.finditer(written):
        bare = found[1].strip(_AROUND)
        if bare not in said or found[1] == bare:
            return found.end()
    return None


class AnswerGiven(StoppingCriteria):
    """Ends each text at its first whole answer: what else a model writes are problems of its own.

    Args:
        tokenizer: of the model.
        start: tokens of the prompt, padding included.
        prompt: as for `extract_answer`.
    """

    def __init__(self, tokenizer: Any, start: int, prompt: str) -> None:
        self._tokenizer, self._start, self._prompt = tokenizer, start, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Return for each text whether it has its answer."""
        written = input_ids[:, self._start :]
        ends = self._tokenizer.batch_decode(written[:, -_CLOSING_TOKENS:])
        given = [
            _CLOSING in end and self._has_answer(row)
            for row, end in zip(written, ends, strict=True)
        ]
        return torch.tensor(given, device=input_ids.device)

    def _has_answer(self, row: Tensor) -> bool:
        text = self._tokenizer.decode(row, skip_special_tokens=True)
        return end_of_answer(text, self._prompt) is not None
