"""README's picture shows the numbers of RESULTS.md."""

from __future__ import annotations

from xml.etree import ElementTree

from experiments.picture import FIGURE, RESULTS, draw


def test_it_is_what_the_results_give() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    drawn = draw(page)
    assert FIGURE.read_text(encoding="utf-8") == drawn, "run python -m experiments.picture"
    assert len(ElementTree.fromstring(drawn)) > 50
    assert draw(page.replace("5.637", "5.7")) != drawn
    assert "prefers-color-scheme:dark" in drawn and "docs/methods.svg" in (
        (FIGURE.parent.parent / "README.md").read_text(encoding="utf-8")
    )
