"""The report in a browser: no complaints and nothing cut off, on a screen, a phone and paper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.browser import Page, browser, executable
from tests.support.data import report_cases as cases
from trainer.report.render import write_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trainer.outcome import TrainingOutcome

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        executable() is None, reason="no Chromium or Chrome here: install one, or set BROWSER_FOR_TESTS"
    ),
]

PAPER_PX = 688  # A4 less its margins (182 mm), at 96 to the inch
SHEET_PX = 1016  # the same of its height (269 mm)
LONG = ("W" * 64, "M" * 40 + " & <b>", *(f"{'A long name of many words'} {n}" for n in range(14)))
CASES = {
    "five": cases.outcome(),
    "two": cases.outcome(2, compared=False, verdict="dry-run"),
    "nine": cases.outcome(9),
    "foreseen": cases.outcome(foreseen=True),
    "long names": cases.outcome(16, names=LONG, foreseen=True),
    "refused": cases.refused(),
}
# Texts that extend beyond their chart, and names in the plane that cover each other.
CUT_OFF = """[...document.querySelectorAll('svg')].flatMap(svg => [...svg.querySelectorAll('text')].filter(t => {
  const box = t.getBBox(), view = svg.viewBox.baseVal;
  return box.x < -0.5 || box.x + box.width > view.width + 0.5 || box.y < -3 || box.y + box.height > view.height + 3;
}).map(t => svg.querySelector('title').textContent + ': ' + t.textContent))"""
COVERED = """[...document.querySelectorAll('text.at')].flatMap((one, i, all) => all.slice(i + 1).filter(other => {
  const a = one.getBBox(), b = other.getBBox();
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y + 3 < b.y + b.height - 3 && b.y + 3 < a.y + a.height - 3;
}).map(other => one.textContent + ' / ' + other.textContent))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LETTERS_PX = """Math.min(...[...document.querySelectorAll('svg')].map(
  svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)) * 11"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page() -> AsyncIterator[Page]:
    async with browser() as tab:
        yield tab


async def show(page: Page, outcome: TrainingOutcome, folder: Path) -> None:
    page.complaints.clear()
    await page.open(write_report(outcome, folder).html.resolve().as_uri())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_screen_and_a_phone_show_it_whole(case: str, page: Page, tmp_path: Path) -> None:
    await show(page, CASES[case], tmp_path)
    for width in (1280, 400):
        for dark in (False, True):
            await page.look(width, dark=dark)
            assert await page.value(WIDER) <= 0, f"scrolls sideways at {width} px"
            assert await page.value(CUT_OFF) == []
    assert page.complaints == []


@pytest.mark.parametrize("case", ["five", "nine"])
@pytest.mark.asyncio(loop_scope="module")
async def test_names_in_the_plane_cover_nothing_and_a_phone_shows_letters_to_read(
    case: str, page: Page, tmp_path: Path
) -> None:
    await show(page, CASES[case], tmp_path)
    await page.look(400)
    assert await page.value(COVERED) == []
    assert await page.value(LETTERS_PX) >= 9.0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.asyncio(loop_scope="module")
async def test_paper_cuts_nothing_off(case: str, page: Page, tmp_path: Path) -> None:
    await show(page, CASES[case], tmp_path)
    await page.look(PAPER_PX, media="print")
    wide = "[...document.querySelectorAll('table, svg, p')].map(e => e.getBoundingClientRect().right)"
    assert max(await page.value(wide)) <= PAPER_PX + 1
    tall = "[0, ...[...document.querySelectorAll('figure')].map(e => e.getBoundingClientRect().height)]"
    assert max(await page.value(tall)) <= SHEET_PX
    printed = await page.pdf()
    assert printed.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 24


@pytest.mark.asyncio(loop_scope="module")
async def test_dark_is_dark_and_paper_is_white(page: Page, tmp_path: Path) -> None:
    await show(page, CASES["two"], tmp_path)
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.look(1280)
    assert await page.value(ground) == "rgb(255, 255, 255)"
    await page.look(1280, dark=True)
    assert await page.value(ground) == "rgb(20, 23, 27)"
    await page.look(PAPER_PX, dark=True, media="print")
    assert await page.value(ground) == "rgb(255, 255, 255)"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_browser_reports_requests_and_errors_of_a_page(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('heard')</script>", encoding="utf-8")
    page.complaints.clear()
    await page.open(bad.resolve().as_uri())
    assert any("requested http://127.0.0.1:9/x.png" in text for text in page.complaints)
    assert any("heard" in complaint for complaint in page.complaints)
