"""docs/README.md leads to every page and every command, and no link of a page is broken."""

from __future__ import annotations

import re

from bequest.cli.main import COMMANDS
from pages.blocks import PAGES, ROOT

INDEX = ROOT / "docs" / "README.md"


def links(text: str) -> list[str]:
    return [
        link.partition("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not link.startswith(("http", "#", "mailto:"))
    ]


def test_every_page_is_in_the_index() -> None:
    text = INDEX.read_text(encoding="utf-8")
    pages = {page.name for page in INDEX.parent.glob("*.md")} - {INDEX.name}
    assert pages <= set(links(text)), pages - set(links(text))
    commands = text.partition("## Commands")[2].partition("## Reference")[0]
    told = set(re.findall(r"`(?:bequest )?([a-z]+)`", commands))
    assert told == set(COMMANDS)


def test_links_lead_somewhere() -> None:
    broken = [
        (page.name, link)
        for page in PAGES
        for link in links(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not broken
