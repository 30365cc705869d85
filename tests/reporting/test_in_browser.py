"""The report as a reader gets it: opened by a real browser, wide and narrow, light and dark."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import bequest
from assets.bring import ROOT, AssetError, bring
from assets.chromium import ASSET
from bequest.reporting.runs import read_runs
from bequest.results import ACCOUNT, Section
from reporting.browser import Page, browser
from reporting.real_runs import make_runs
from reporting.samples import HOSTILE, every_kind, gains, hostile_record, lineage, write_run

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


@pytest.fixture(scope="module")
def real_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    return bequest.report(*make_runs(folder), out=folder / "report.html")


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


HIDDEN = """[...document.querySelectorAll(".scroll")]
  .filter(one => one.getBoundingClientRect().width > 0 && one.scrollWidth > one.clientWidth + 1)
  .map(one => one.innerText)"""
COLOURS = """[...document.querySelectorAll("h1, h2, h3, p, th, td, a, li, code, summary")]
  .filter(one => one.innerText.trim() && one.getBoundingClientRect().width > 1)
  .map(one => {
    let under = one;
    while (under && getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)")
      under = under.parentElement;
    return [getComputedStyle(one).color, getComputedStyle(under ?? document.body).backgroundColor];
  })"""


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_what_the_commands_leave_can_be_read(
    window: Page, real_file: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    window.open(real_file, width=width, dark=dark)
    assert window.complaints() == [] and window.requests() == [real_file.resolve().as_uri()]
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    pictures = [one for one in window.evaluate(SIZES) if one["shown"]]
    assert len(pictures) > 10 and all(one["beyond"] == [] for one in pictures)
    # Nothing of a table is out of sight in a wide window.
    assert width < 1280 or window.evaluate(HIDDEN) == []
    pairs = {tuple(pair) for pair in window.evaluate(COLOURS)}
    assert len(pairs) > 3
    for pair in pairs:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair
    file = tmp_path / "page.png"
    window.screenshot(file)
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 50_000


@pytest.mark.parametrize("width", [1200, 900, 700, 375])
def test_a_broad_table_fits_or_scrolls_within_itself(
    window: Page, width: int, tmp_path: Path
) -> None:
    path = Section(
        title="Plan",
        type="table",
        data={"columns": ["what", "value"], "rows": [["a model's own name", "/models" * 8]]},
    )
    run = write_run(tmp_path / "gains", [gains(), path], "bequest evaluate before after")
    window.open(bequest.report(run, out=tmp_path / "report.html"), width=width)
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    hidden = window.evaluate(HIDDEN)
    assert [text.split()[0] for text in hidden] == ([] if width > 1100 else ["task"])
    # No number is on two lines, and no word is cut in two.
    lines = window.evaluate(
        """[...document.querySelectorAll("td.number, .dense th")].map(one => {
          const words = one.innerText.split(/\\s/).length;
          const range = document.createRange();
          range.selectNodeContents(one);
          const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
          return [one.innerText, tops.size, words];
        })"""
    )
    assert lines and all(found <= words for _, found, words in lines), lines


def test_every_command_told_what_it_took(real_file: Path) -> None:
    for run in read_runs([one.parent for one in sorted(real_file.parent.glob("*/results.json"))]):
        (told,) = (one for one in run.sections if one.title == ACCOUNT)
        kinds = [row[0] for row in told.data["rows"]]
        assert told is run.sections[-1] and {"setting", "version", "cost"} == set(kinds), run.name
    text = real_file.read_text(encoding="utf-8")
    # A model's settings stand once, with what making it took.
    assert text.count("trained: pretrain</h3>") == 1 and text.count("seconds of this call") == 4
    assert text.count(">Versions</h3>") == 1


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
