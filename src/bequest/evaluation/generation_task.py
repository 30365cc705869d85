"""Answers that a model writes and a program verifies: reasoning-gym's generators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bequest.errors import InputError
from bequest.evaluation.items import ItemScores, numbered
from bequest.evaluation.kept import KeptAnswers
from bequest.evaluation.models import Candidate, LoadedModel
from bequest.evaluation.written_answers import AnswerGiven, end_of_answer, extract_answer
from bequest.losses.processes import add_up, rank_and_size, share_of


class GenerationTask:
    """Problems of one of reasoning-gym's generators, answered greedily, judged by its own scorer.

    An item is 1 if the scorer gives full marks, else 0. `extract_answer` says what the answer is; a
    model that has given it in tags is stopped.

    Args:
        name: of the generator.
        size: how many problems.
        seed: of the problems.
        prompt: how a problem is put; `{question}` stands for it.
        chat: apply the model's chat template.
        max_new_tokens: the most tokens of an answer.
        batch_size: problems answered at once.

    Raises:
        InputError: reasoning-gym is not installed or has no such generator, or the prompt does not
            name the question.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        seed: int,
        prompt: str,
        chat: bool,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self.name = name
        self._data = _generator(name, size, seed)
        self._problems = [self._data[row] for row in range(size)]
        if "{question}" not in prompt:
            raise InputError(f"prompt is {prompt!r}; it must hold {{question}}")
        self._prompts = [prompt.replace("{question}", row["question"]) for row in self._problems]
        self._prompt = prompt
        self._chat, self._max_new_tokens, self._batch_size = chat, max_new_tokens, batch_size
        asked = [
            [text, row["answer"]] for text, row in zip(self._prompts, self._problems, strict=True)
        ]
        settings = [name, chat, max_new_tokens, _version(), "first answer"]
        self.fingerprint = hashlib.sha256(
            json.dumps([settings, asked], default=str).encode()
        ).hexdigest()

    @property
    def num_items(self) -> int:
        """Problems."""
        return len(self._problems)

    @property
    def bytes_read(self) -> int:
        """About how many bytes are read and, if every answer is as long as it may be, written."""
        return sum(len(text.encode()) + 4 * self._max_new_tokens for text in self._prompts)

    def flops(self, candidate: Candidate) -> float:
        """About how many floating-point operations a model takes for all items."""
        return candidate.flops_on_text(self.bytes_read)

    def measure(self, model: LoadedModel, *, progress: bool, scratch: Path | None) -> ItemScores:
        """Let a model answer every problem; all processes of a run share the work.

        Args:
            model: the model.
            progress: show a bar.
            scratch: a folder for answers as they come, taken up by the next call.

        Raises:
            InputError: a chat template is asked for and the tokenizer has none.
        """
        if self._chat and not getattr(model.tokenizer, "chat_template", None):
            raise InputError(
                f"chat is asked for, but the tokenizer of {model.candidate.name} has no chat "
                "template; leave --chat out"
            )
        rank, size = rank_and_size()
        answers = KeptAnswers(scratch, rank, "answers")
        solved = torch.zeros(len(self._problems), dtype=torch.float64)
        # Prompts of like length beside each other, the longest first, so that memory runs out early.
        order = sorted(range(len(self._prompts)), key=lambda row: -len(self._prompts[row]))
        mine = share_of(order, rank, size, in_step=False)
        left = [row for row in mine if row not in answers.found]
        bar = tqdm(total=len(left), unit="answer", desc=self.name, disable=not progress or rank > 0)
        with bar:
            for start in range(0, len(left), self._batch_size):
                rows = left[start : start + self._batch_size]
                written = self._answer(model, [self._prompts[row] for row in rows])
                answers.keep(zip(rows, written, strict=True))
                bar.update(len(rows))
        for row in mine:
            solved[row] = float(self._is_solved(answers.found[row], self._problems[row]))
        add_up(solved)
        return ItemScores(
            task=self.name,
            metric="solved",
            ids=tuple(
                numbered([hashlib.sha256(p.encode()).hexdigest()[:16] for p in self._prompts])
            ),
            values=solved.numpy(),
            sizes=np.ones(len(self._problems)),
            higher_is_better=True,
        )

    def _is_solved(self, written: str, problem: Mapping[str, Any]) -> bool:
        # Scorers give crumbs for any number at all; full marks are what was verified.
        return float(self._data.score_answer(extract_answer(written, self._prompt), problem)) >= 1.0

    @torch.inference_mode()
    def _answer(self, model: LoadedModel, prompts: Sequence[str]) -> list[str]:
        tokenizer = model.tokenizer
        if self._chat:
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in prompts
            ]
        tokens = [
            tokenizer(text, add_special_tokens=not self._chat)["input_ids"] for text in prompts
        ]
        width = max(map(len, tokens))
        padding = tokenizer.pad_token_id
        padding = tokenizer.eos_token_id if padding is None else padding
        padding = 0 if padding is None else padding
        # Padding stands on the left, so that every prompt ends where its answer begins.
        ids = torch.tensor([[padding] * (width - len(row)) + row for row in tokens])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in tokens])
        place = model.model.device
        written = model.model.generate(
            input_ids=ids.to(place),
            attention_mask=mask.to(place),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=padding,
            stopping_criteria=[AnswerGiven(tokenizer, width, self._prompt)],
        )
        texts: list[str] = tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        # A text that is done waits for the others of its batch, and is padded.
        return [text[: end_of_answer(text, self._prompt)] for text in texts]


def _generator(name: str, size: int, seed: int) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise InputError(
            f"problems are generated by reasoning-gym, but {error.name} is not installed; "
            "run `pip install 'bequest[evaluate]'`"
        ) from error
    if name not in DATASETS:
        from difflib import get_close_matches

        close = get_close_matches(name, DATASETS, 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"generate names {name!r}, which reasoning-gym does not have{hint}")
    return create_dataset(name, size=size, seed=seed)


def _version() -> str:
    from importlib.metadata import version

    return version("reasoning-gym")
