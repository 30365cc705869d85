"""The report as a reader gets it: opened by a real browser, wide and narrow, light and dark."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import bequest
from assets.bring import ROOT, AssetError, bring
from assets.chromium import ASSET
from reporting.browser import Page, browser
from reporting.samples import HOSTILE, every_kind, hostile_record, lineage, write_run

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser, brought when it is not there; where none can be had the tests are skipped."""
    try:
        program = bring(ASSET, ROOT) / "chromium"
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except (AssetError, OSError) as error:
        pytest.skip(f"no browser can be had: {error}")
    if not told.stdout.startswith("Chromium"):
        pytest.skip(f"the browser does not start: {told.stderr[-300:]}")
    with browser(program, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    first = lineage("big")
    second = lineage("student", operation="average", lineage=first)
    runs = [
        write_run(folder / "student", every_kind()[:1], "bequest inherit big student", first),
        write_run(folder / "all-kinds", every_kind(), "bequest average run " + "x" * 300, second),
    ]
    return bequest.report(*runs, out=folder / "report.html")


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    runs = [
        write_run(folder / str(number), every_kind(named=text), text, hostile_record(text))
        for number, text in enumerate(HOSTILE[:3])
    ]
    return bequest.report(*runs, out=folder / "report.html")


SIZES = """[...document.querySelectorAll("svg.picture")].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("path, rect, text, use")].filter(mark => {
    const found = mark.getBoundingClientRect();
    return found.width > 0 || found.height > 0;
  });
  const beyond = [...svg.querySelectorAll("text")].filter(text => {
    const found = text.getBoundingClientRect();
    return found.right > box.right + 3 || found.left < box.left - 3;
  });
  return {shown: getComputedStyle(svg).display !== "none", wide: svg.classList.contains("wide"),
          width: box.width, height: box.height, marks: marks.length,
          beyond: beyond.map(text => text.textContent)};
})"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375, 320])
def test_every_picture_is_drawn(window: Page, report_file: Path, width: int, dark: bool) -> None:
    window.open(report_file, width=width, dark=dark)
    assert window.complaints() == []
    assert window.requests() == [report_file.resolve().as_uri()]
    pictures = window.evaluate(SIZES)
    assert len(pictures) == 2 * (7 + 1)
    for picture in pictures:
        assert picture["shown"] == (picture["wide"] == (width > 640))
        if picture["shown"]:
            assert picture["width"] > min(200, width / 2) and picture["height"] > 60
            assert picture["marks"] > 5
            assert picture["beyond"] == []
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    background = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_colours_follow_the_theme_and_the_button(window: Page, report_file: Path) -> None:
    stroke = (
        "getComputedStyle(document.querySelector('svg.wide:not(.lineage) "
        '[style*="stroke: var(--series-1)"]\')).stroke'
    )
    window.open(report_file, width=1280)
    assert window.evaluate(stroke) == "rgb(0, 114, 178)"
    button = "document.getElementById('theme')"
    assert window.evaluate(f"{button}.textContent") == "Dark page"
    window.evaluate(f"{button}.click()")
    assert window.evaluate(stroke) == "rgb(86, 180, 233)"
    assert window.evaluate(f"{button}.textContent") == "Light page"
    window.evaluate("window.localStorage.clear()")
    # Paper is white, whatever the screen was.
    window.open(report_file, width=1280, dark=True, media="print")
    assert window.evaluate(stroke) == "rgb(0, 114, 178)"
    assert window.evaluate(f"getComputedStyle({button}).display") == "none"
    assert window.complaints() == []


def test_hostile_text_does_nothing(window: Page, hostile_file: Path) -> None:
    for width in (1280, 375):
        window.open(hostile_file, width=width)
        assert window.complaints() == []
        assert window.requests() == [hostile_file.resolve().as_uri()]
        assert window.evaluate("typeof window.broken") == "undefined"
        assert window.evaluate("document.scripts.length") == 1
        assert window.evaluate("document.documentElement.scrollWidth") <= width


def test_the_browser_itself_would_refuse_a_script(window: Page, report_file: Path) -> None:
    """The page's policy holds even if markup from outside got in."""
    window.open(report_file, width=1280)
    window.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken=1\">')"
    )
    window.evaluate("new Promise(done => setTimeout(done, 50))")
    assert window.evaluate("typeof window.broken") == "undefined"
    assert "Content Security Policy" in " ".join(window.complaints())
