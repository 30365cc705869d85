"""Held-out text from a file, and what a model folder's predictions of it cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from bequest.errors import InputError

_SUFFIXES = (".jsonl", ".json", ".txt", ".md")


def read_texts(path: str | Path) -> list[str]:
    """Read texts: the field `text` of each line of a `.jsonl` file, or a `.txt` file as one text.

    Raises:
        InputError: there is no such file, or no text in it.
    """
    file = Path(path).expanduser()
    if file.suffix not in _SUFFIXES or not file.is_file():
        raise InputError(f"texts {path} is no file of {', '.join(_SUFFIXES)}; name one.")
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"texts {path} cannot be read as UTF-8: {error}.") from error
    texts = list(_json_lines(content, file)) if file.suffix.startswith(".json") else [content]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"texts {path} holds no text.")
    return texts


def _json_lines(content: str, file: Path) -> Iterator[str]:
    # Not `splitlines`: JSON may hold U+2028 and other ends of lines as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'texts {file}, line {number}: every line must be an object with a "text".'
            ) from error
        if not isinstance(text, str):
            raise InputError(f"texts {file}, line {number}: its text is a {type(text).__name__}.")
        yield text


class HeldOutText:
    """Measures model folders on the same texts.

    Args:
        path: as for `read_texts`.

    Raises:
        InputError: the file is at fault.
    """

    def __init__(self, path: str | Path) -> None:
        self.texts = read_texts(path)

    @property
    def fingerprint(self) -> str:
        """Hash of the texts."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def __call__(self, folder: Path) -> float:
        """Return the bits per byte of the texts under a causal language model.

        Raises:
            InputError: the folder holds no such model, or no tokenizer.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from bequest.evaluation.bits_per_byte import bits_per_byte

        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # Which kinds it raises depends on what is missing.
            raise InputError(
                f"{folder} has no tokenizer that loads; save it with the checkpoints."
            ) from error
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        except Exception as error:  # Likewise.
            reason = " ".join(str(error).split())
            raise InputError(f"{folder} is no causal language model: {reason}") from error
        if torch.cuda.is_available():
            model.to("cuda")
        return bits_per_byte(model, tokenizer, self.texts).bits_per_byte
