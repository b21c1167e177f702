"""The report in a real browser: drawn, quiet, offline, and not to be moved by a hostile name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from geoprobe.reports.html import write_report
from tests.reports.browser import CHROMIUM, Browser
from tests.reports.factory import HOSTILE, make_collapse_run, make_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")

DRAWN = (
    "document.documentElement.dataset.charts === 'drawn' && "
    "!document.querySelector('#table-of-readings')?.hidden"
)

EMPTY = """(async () => {
  const empty = [];
  for (const form of document.querySelectorAll('form[data-section]')) {
    for (const input of form.querySelectorAll('[data-control]')) {
      const first = input.value;
      const count = input.options ? input.options.length : Number(input.max) + 1;
      for (let i = 0; i < count; i++) {
        input.value = String(i);
        input.dispatchEvent(new Event('input', {bubbles: true}));
        await new Promise((done) => setTimeout(done, 150));
        const charts = form.parentElement.querySelectorAll('[data-chart]');
        for (const chart of charts) {
          const marks = chart.querySelectorAll('.mark-symbol path, .mark-rect path');
          if (!marks.length) empty.push([chart.dataset.chart, input.dataset.control, i]);
        }
      }
      input.value = first;
      input.dispatchEvent(new Event('input', {bubbles: true}));
    }
  }
  return empty;
})()"""
"""Charts without a mark, and the choice that left them so, over every choice of every control."""


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    run = make_run(
        folder / "run",
        tokens=("last", "all"),
        sinks=("in", "out"),
        conventions=("exact", "li2025"),
        ablate=(5,),
        blocks=3,
        steps=(0, 4, 16, 64, 256),
    )
    return write_report([run], folder / "report.html")


def _quiet(browser: Browser, file: Path) -> None:
    assert browser.complaints == []
    assert {u for u in browser.requests if not u.startswith("data:")} == {file.as_uri()}


@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_is_drawn_without_errors_or_requests(
    browser: Browser, series: Path, dark: bool
) -> None:
    browser.open(series, until=DRAWN, dark=dark)
    _quiet(browser, series)
    charts = browser.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map(c => [c.dataset.chart, "
        "c.querySelectorAll('svg.marks path').length, c.querySelectorAll('img').length])"
    )
    assert {name for name, _, _ in charts} == {
        "training-rankme",
        "training-alpha",
        "heatmap",
        "spectra",
        "sinks",
        "ablation",
        "others",
        "profile",
    }
    for name, paths, pictures in charts:
        assert paths > 5, name
        assert pictures == 0, name  # the live chart took the picture's place
    assert "NaN" not in browser.evaluate(
        "[...document.querySelectorAll('svg.marks path')].map(p => p.getAttribute('d')).join()"
    )


def test_stepping_and_choosing_redraws_the_charts(browser: Browser, series: Path) -> None:
    browser.open(series, until=DRAWN)
    line = (
        "[...document.querySelectorAll('[data-chart=\"spectra\"] path')]"
        ".map(p => p.getAttribute('d')).join()"
    )
    before = browser.evaluate(line)
    browser.evaluate("document.querySelector('[data-section=spectra] [data-step=\"-1\"]').click()")
    browser.wait(f"{line} !== {before!r}")
    output = "document.querySelector('[data-section=spectra] output').textContent"
    assert browser.evaluate(output) == "step64"
    title = "document.querySelector('[data-chart=\"spectra\"] .role-title').textContent"
    browser.wait(f"{title}.startsWith('step64')")
    caption = "document.querySelector('#figure-spectra .shown').textContent"
    assert browser.evaluate(caption).startswith("step64")
    heat = "document.querySelector('[data-chart=\"heatmap\"] svg').textContent"
    browser.evaluate(
        "{ const s = document.querySelector('[data-section=heatmap] [data-control=measure]');"
        "s.value = '1'; s.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    browser.wait(f"{heat}.includes('alpha-ReQ')")
    loss = "document.querySelector('[data-chart=\"ablation\"] svg').textContent"
    browser.evaluate(
        "{ const s = document.querySelector('[data-section=ablation] [data-control=measure]');"
        "s.value = '1'; s.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    browser.wait(f"{loss}.includes('accuracy') && !{loss}.includes('nats')")
    _quiet(browser, series)


def test_every_choice_of_every_control_draws_something(browser: Browser, series: Path) -> None:
    browser.open(series, until=DRAWN)
    assert browser.evaluate(EMPTY) == []
    _quiet(browser, series)


def test_a_report_of_collapse_beside_another_draws_every_choice(
    browser: Browser, tmp_path: Path
) -> None:
    names, counts = ("a", "b", "c"), (40, 20, 10)
    left, right = tmp_path / "left", tmp_path / "right"
    runs = [
        make_collapse_run(left, name="left", classes=names, counts=counts, predicted=True),
        make_collapse_run(right, steps=(0, 8), data=("text",), classes=names, counts=counts),
    ]
    file = write_report(runs, tmp_path / "report.html")
    browser.open(file, until=DRAWN)
    assert browser.evaluate(EMPTY) == []
    assert "NaN" not in browser.evaluate(
        "[...document.querySelectorAll('svg.marks path')].map(p => p.getAttribute('d')).join()"
    )
    _quiet(browser, file)


def test_the_table_of_readings_filters_sorts_and_pages(browser: Browser, series: Path) -> None:
    browser.open(series, until=DRAWN)
    status = "document.querySelector('#table-of-readings [role=status]').textContent"
    rows = "document.querySelectorAll('#table-of-readings tbody tr').length"
    assert browser.evaluate(status).startswith("Readings 1 to 50 of ")
    assert browser.evaluate(rows) == 50
    browser.evaluate(
        "for (const [id, text] of [['measure', 'rankme'], ['site', 'final'], ['tokens', 'last'],"
        "['sinks', 'in'], ['convention', 'exact']]) {"
        "const s = document.getElementById('filter-' + id);"
        "s.value = [...s.options].find((o) => o.text === text).value;"
        "s.dispatchEvent(new Event('input')); }"
    )
    assert browser.evaluate(status) == "Readings 1 to 5 of 5"
    browser.evaluate(
        "[...document.querySelectorAll('#table-of-readings thead button')]"
        ".find((b) => b.textContent === 'value').click()"
    )
    column = browser.evaluate(
        "(() => { const i = [...document.querySelectorAll('#table-of-readings thead th')]"
        ".findIndex((h) => h.textContent === 'value');"
        "return [...document.querySelectorAll('#table-of-readings tbody tr')]"
        ".map((r) => Number(r.cells[i].textContent)); })()"
    )
    assert len(column) == 5
    assert column == sorted(column)


@pytest.mark.parametrize("kind", ["one", "features", "two", "empty", "unordered"])
def test_other_kinds_of_runs_are_drawn_too(browser: Browser, tmp_path: Path, kind: str) -> None:
    from tests.reports.test_html import KINDS

    file = write_report(KINDS[kind](tmp_path), tmp_path / "report.html")
    ready = "document.documentElement.dataset.charts === 'drawn'"
    browser.open(file, until=ready)
    _quiet(browser, file)
    charts, drawn = browser.evaluate(
        "[document.querySelectorAll('[data-chart]').length,"
        "document.querySelectorAll('[data-chart] svg.marks').length]"
    )
    assert charts == drawn
    assert (charts == 0) == (kind == "empty")


def test_a_hostile_name_does_nothing(browser: Browser, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        name="</script><img src=x onerror=\"document.title='pwned'\">".replace("/", "\\"),
        labels=[f"{HOSTILE}{i}" for i in range(3)],
        steps=(0, 10, 100),
        sites=("embed", HOSTILE, "final"),
        warn=HOSTILE,
        failed={"f" + HOSTILE: HOSTILE},
        sinks=("in", "out"),
    )
    file = write_report([run], tmp_path / "report.html")
    browser.open(file, until=DRAWN)
    _quiet(browser, file)
    assert "pwned" not in browser.evaluate("document.title.replaceAll(\"title='pwned'\", '')")
    assert (
        browser.evaluate("[...document.images].filter(i => !i.src.startsWith('data:')).length") == 0
    )
    # Tooltips are made of labels as well.
    browser.evaluate(
        "document.querySelector('[data-chart=\"training-rankme\"] .mark-symbol path')"
        ".dispatchEvent(new MouseEvent('mousemove', {bubbles: true, clientX: 300, clientY: 300}))"
    )
    assert browser.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_with_scripts_off_the_pictures_and_tables_are_there(browser: Browser, series: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(series)
        sizes = browser.evaluate(
            "[...document.querySelectorAll('.chart img')].map((i) => i.naturalWidth)"
        )
        assert len(sizes) == 8
        assert min(sizes) > 100
        assert browser.evaluate("document.querySelectorAll('#newest tbody tr').length") > 5
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_these_tests_notice_errors_requests_and_injected_scripts(
    browser: Browser, series: Path, tmp_path: Path
) -> None:
    text = series.read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("const page = JSON.parse(", "const page = JSON.perse(", 1))
    browser.open(broken)
    browser.evaluate("new Promise((done) => setTimeout(done, 500))")
    assert browser.complaints
    assert not browser.evaluate(DRAWN)
    asking = tmp_path / "asking.html"
    asking.write_text(text.replace("<h1>", '<img src="https://example.invalid/x.png"><h1>', 1))
    browser.open(asking, until=DRAWN)
    assert browser.complaints  # refused by the policy, and said so
    injected = tmp_path / "injected.html"
    evil = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    injected.write_text(text.replace("<h1>", f"{evil}<h1>", 1))
    browser.open(injected, until=DRAWN)
    assert browser.complaints
    assert browser.evaluate("document.title") != "pwned"  # the policy alone would hold
    lax = tmp_path / "lax.html"
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    lax.write_text(policy.sub("", text).replace("<h1>", f"{evil}<h1>", 1))
    browser.open(lax)
    browser.wait("document.title === 'pwned'")
