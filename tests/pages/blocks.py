"""Code and commands of the pages that users read, with the place where each stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SHELL = {"", "bash", "sh", "console"}
LAUNCHERS = ("torchrun", "accelerate")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line of bequest, as words after `bequest`."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place} {self.words[0] if self.words else ''}"


def blocks() -> list[Block]:
    """Every fenced block."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCED.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(str(page.relative_to(ROOT)), line, match[1], match[2]))
    return found


def of_language(language: str) -> list[Block]:
    """Every fenced block of one language."""
    return [block for block in blocks() if block.language == language]


def prose(page: Path) -> str:
    """A page's text with its fenced blocks blanked out, line for line."""
    return _FENCED.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))


def inline_code() -> Iterator[tuple[str, str]]:
    """Every piece of code in running text, with its place."""
    for page in PAGES:
        for number, line in enumerate(prose(page).splitlines(), 1):
            for match in _INLINE.finditer(line):
                yield f"{page.relative_to(ROOT)}:{number}", match[1]


def commands() -> list[Command]:
    """Every command line of bequest: a line of a block, or code in running text with arguments."""
    found = []
    for block in blocks():
        if block.language in _SHELL:
            for number, line in enumerate(block.text.splitlines(), block.line):
                words = words_of(line.removeprefix("$ "))
                if words is not None:
                    found.append(Command(f"{block.page}:{number}", words))
    for place, code in inline_code():
        words = words_of(code)
        # `bequest score` alone is the command's name and not a command line.
        if words is not None and len(words) > 1:
            found.append(Command(place, words))
    return found


def words_of(line: str) -> tuple[str, ...] | None:
    """What stands after `bequest` in a line, without comment, brackets and dots; None if nothing."""
    if not line.startswith(("bequest ", *LAUNCHERS)):
        return None
    # [--flag value] may be left out; AFTER... may be repeated.
    plain = re.sub(r"[\[\]]|\.\.\.", "", line)
    words = shlex.split(plain, comments=True)
    if "bequest" not in words:
        return None
    return tuple(words[words.index("bequest") + 1 :])
