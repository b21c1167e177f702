"""The contents of a report: every section once, with scripts and without, on any paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from geoprobe.reports.html import write_report
from tests.reports.browser import Browser
from tests.reports.factory import make_collapse_run, make_run
from tests.reports.test_html import KINDS, Document

ROOM = {"narrow": 400, "wide": 1200}
SEEN = """(() => {
  const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().height > 0;
  return [...document.querySelectorAll('.contents li a')].filter(shown).map((a) => a.hash);
})()"""
"""Where the links lead that can be seen."""


def _sections(text: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)">', text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_is_in_the_contents_once_and_in_order(tmp_path: Path, kind: str) -> None:
    text = write_report(KINDS[kind](tmp_path), tmp_path / "r.html").read_text("utf-8")
    nav = text.split("<nav")[1].split("</nav>")[0]
    for part in nav.split('<div class="wide">'):
        links = re.findall(r'<li[^>]*><a href="#([^"]+)">([^<]+)</a>', part)
        assert [name for name, _ in links] == ["summary", *_sections(text)]
        assert len({title for _, title in links}) == len(links)
    # The first stop of the keyboard leads past all of it.
    first = next(a for t, a in Document(text).elements if t == "a")
    assert first["href"] == "#summary"


def test_titles_of_sections_are_those_of_their_headings(tmp_path: Path) -> None:
    text = write_report([make_run(tmp_path / "a")], tmp_path / "r.html").read_text("utf-8")
    headings = dict(re.findall(r'<section id="([^"]+)">\s*<h2>([^<]+)</h2>', text))
    links = dict(re.findall(r'<li[^>]*><a href="#([^"]+)">([^<]+)</a>', text))
    charts = [name for name in headings if f'data-section="{name}"' in text]
    assert charts
    assert all(links[name] == headings[name] for name in charts)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    runs = [make_run(folder / "a", blocks=3), make_collapse_run(folder / "b")]
    return write_report(runs, folder / "r.html")


def _open(browser: Browser, page: Path, width: int, **more: Any) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    # The same address again would keep where it was scrolled to.
    browser.call("Page.navigate", url="about:blank")
    browser.open(page, **more)


@pytest.mark.parametrize("room", ROOM)
def test_the_section_that_is_read_is_marked(browser: Browser, page: Path, room: str) -> None:
    drawn = "document.documentElement.dataset.charts === 'drawn'"
    _open(browser, page, ROOM[room], until=drawn)
    marked = (
        f"[...document.querySelectorAll('.{room} a[aria-current=location]')].map((a) => a.hash)"
    )
    assert browser.evaluate(marked) == ["#summary"]
    for name in ("collapse", "definitions", "heatmap", "cite"):
        browser.evaluate(
            f"document.getElementById('{name}').scrollIntoView({{behavior: 'instant'}})"
        )
        browser.wait(f"{marked}.join() === '#{name}'", 10)
        title = f"document.querySelector('.narrow a[href=\"#{name}\"]').textContent"
        here = browser.evaluate("document.querySelector('.here').textContent")
        assert here == browser.evaluate(title)
    # The list stays where it can be seen, and does not cover a heading that it leads to.
    box = "document.querySelector('.contents').getBoundingClientRect()"
    assert browser.evaluate(f"{box}.top") == pytest.approx(0, abs=1)
    browser.evaluate("document.querySelector('.contents a[href=\"#heatmap\"]').click()")
    top = "document.querySelector('#heatmap h2').getBoundingClientRect().top"
    under = f"{box}.bottom" if room == "narrow" else "0"
    browser.wait(f"{top} >= {under} && {top} < {under} + 80", 10)


def test_wide_pages_list_them_beside_and_narrow_ones_on_demand(
    browser: Browser, page: Path
) -> None:
    names = ["#summary", *(f"#{name}" for name in _sections(page.read_text("utf-8")))]
    _open(browser, page, ROOM["wide"])
    assert browser.evaluate(SEEN) == names
    right = "document.querySelector('.contents').getBoundingClientRect().right"
    left = "document.querySelector('main').getBoundingClientRect().left"
    assert browser.evaluate(right) <= browser.evaluate(left)
    _open(browser, page, ROOM["narrow"])
    assert browser.evaluate(SEEN) == []
    assert browser.evaluate("document.querySelector('.contents').offsetHeight") < 60
    browser.evaluate("document.querySelector('.contents summary').focus()")
    _press(browser, "Enter", 13)
    assert browser.evaluate(SEEN) == names
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not browser.evaluate(wide)
    _press(browser, "Escape", 27)
    assert browser.evaluate(SEEN) == []
    browser.evaluate("document.querySelector('.contents summary').click()")
    browser.evaluate("document.querySelector('.narrow a[href=\"#cite\"]').click()")
    assert browser.evaluate(SEEN) == []
    assert browser.evaluate("location.hash") == "#cite"


def _press(browser: Browser, key: str, code: int) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        more = text if kind == "keyDown" else {}
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
        )


@pytest.mark.parametrize("room", ROOM)
def test_without_scripts_there_are_plain_links(browser: Browser, page: Path, room: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        _open(browser, page, ROOM[room])
        if room == "narrow":
            browser.evaluate("document.querySelector('.contents details').open = true")
        names = _sections(page.read_text("utf-8"))
        assert browser.evaluate(SEEN) == ["#summary", *(f"#{name}" for name in names)]
        assert browser.evaluate("document.querySelectorAll('[aria-current]').length") == 0
        browser.evaluate(f"document.querySelector('.{room} a[href=\"#definitions\"]').click()")
        browser.wait(
            "Math.abs(document.getElementById('definitions').getBoundingClientRect().top) < 80", 10
        )
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_there_is_none(browser: Browser, page: Path) -> None:
    for width in ROOM.values():
        _open(browser, page, width)
        shown = "getComputedStyle(document.querySelector('.contents')).display"
        assert browser.evaluate(shown) != "none"
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.evaluate(shown) == "none"
        assert browser.evaluate("getComputedStyle(document.body).display") == "block"
        browser.call("Emulation.setEmulatedMedia", media="")
