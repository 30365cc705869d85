"""A sample of the English Wikipedia of 2016 as running text: 106 articles, 2.9 MB, CC BY-SA 3.0.

The package holds the beginning of a database dump in wiki markup. Tables, templates, references and
pictures go; of links and emphasis the words stay.
"""

from __future__ import annotations

import bz2
import html
import json
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from assets.bring import Asset, Package
from assets.brown import is_held_out

_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_LEAST = 500
"""Characters of an article; what is shorter is a redirect or a stub."""
_NESTED = (r"\{\{[^{}]*\}\}", r"\{\|(?:(?!\{\||\|\}).)*\|\}", r"\[\[(?:File|Image):[^\[\]]*\]\]")
"""Templates, tables and pictures without another one inside."""
_GONE = (
    r"<!--.*?-->",
    r"<(ref|gallery|math|timeline|score)\b[^<>]*?/>",
    r"<(ref|gallery|math|timeline|score)\b[^<>]*>.*?</\1>",
)
_END = re.compile(r"^=+\s*(See also|References|Notes|Further reading|External links)\s*=+", re.M)


def plain_text(markup: str) -> str:
    """Turn wiki markup into paragraphs, one blank line between two of them."""
    text = markup
    for pattern in _GONE:
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.IGNORECASE)
    # A picture's caption has links, so plain links go first.
    text = re.sub(r"\[\[(?!File:|Image:|Category:)(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    for pattern in _NESTED:
        found = 1
        while found:
            text, found = re.subn(pattern, "", text, flags=re.DOTALL | re.IGNORECASE)
    ending = _END.search(text)
    text = text[: ending.start()] if ending else text
    text = re.sub(r"\[\[[^\[\]]*\]\]", "", text)
    text = re.sub(r"\[https?://\S+ ?([^\[\]]*)\]", r"\1", text)
    text = re.sub(r"<[^<>]*>|'{2,}", "", text)
    lines = (line.strip(" *#:;=|!") for line in html.unescape(text).splitlines())
    return "\n\n".join(line for line in lines if len(line) > 1)


def build(package: Path, folder: Path) -> None:
    """Write `train.jsonl` and `held_out.jsonl`, an article a line: `{"id", "text"}`."""
    with zipfile.ZipFile(package) as archive:
        dump = ElementTree.fromstring(bz2.decompress(archive.read(_DUMP)))
    space = dump.tag.removesuffix("mediawiki")
    with (
        (folder / "train.jsonl").open("w", encoding="utf-8") as train,
        (folder / "held_out.jsonl").open("w", encoding="utf-8") as held_out,
    ):
        for page in dump.iter(f"{space}page"):
            title = page.findtext(f"{space}title", "")
            text = plain_text(page.findtext(f"{space}revision/{space}text", ""))
            if page.find(f"{space}redirect") is None and len(text) >= _LEAST:
                part = held_out if is_held_out(title) else train
                part.write(json.dumps({"id": title, "text": text}, ensure_ascii=False) + "\n")


ASSET = Asset(
    name="wikipedia-sample",
    package=Package(
        registry="pypi",
        name="gensim",
        version="4.4.0",
        file_name="gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    ),
    recipe=1,
    build=build,
)
