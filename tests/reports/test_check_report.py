"""The section on a check: it says what the verdict says, and is not there without one."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from geoprobe.checks.checking import Checked
from geoprobe.checks.expectations import Expectation, judge, worst_first
from geoprobe.checks.verdict import Change, Verdict
from geoprobe.commands.check import _show
from geoprobe.reports import html
from geoprobe.reports.check_frames import MOST_PANELS, PERCENT, STATUSES, VALUES
from geoprobe.reports.html import render, write_report
from geoprobe.reports.parts import Filled, filled
from geoprobe.reports.subject import Subject
from geoprobe.runs.folder import Run
from tests.reports.browser import Browser
from tests.reports.factory import HOSTILE, make_run
from tests.reports.looking import rows_of
from tests.reports.test_check import EVIL, FAILED, PASSED, changed, hostile, some
from tests.reports.test_chromium import DRAWN, EMPTY
from tests.reports.test_html import Document

SITES = ("embed", "block.0", "block.1", "block.2", "final")
SURE = Expectation(rel=0.02, sigmas=1.0)


def of(measure: str, site: str, before: float | None, after: float | None, **more: Any) -> Change:
    given = {"probe": "spectrum", "convention": "exact", "keys": {}, "stderr": 1.0, "floor": 0.5}
    found = Change(measure=measure, site=site, before=before, after=after, **{**given, **more})
    return judge(found, SURE, 10.0)


def planted() -> Verdict:
    """RankMe fell at every site, alpha hardly moved, a sink score is missing, others are the same.

    Heads of one layer moved by 1, 2, 3 ... out of the same 100.
    """
    changes = [of("rankme", site, 100.0, 90.0 - i) for i, site in enumerate(reversed(SITES))]
    changes += [of("alpha", site, 1.0, 1.01, stderr=0.001, floor=1e-4) for site in SITES]
    changes += [of("nesum", site, 5.0, 5.0) for site in SITES]
    changes += [
        of("sink_score", "attention.1", 100.0, 100.0 + head, keys={"head": head, "text": "natural"})
        for head in range(8)
    ]
    changes.append(of("sink_score", "attention.0", 0.5, None, keys={"head": 0, "text": "natural"}))
    return Verdict(worst_first(changes), before={"label": "step1"}, after={"label": "step256"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "a", steps=(0, 16, 256), blocks=3)


def _text(run: Run, verdict: Verdict | None) -> str:
    return render(Subject.of([run]), verdict)


def _section(text: str) -> str:
    found = re.search(r'<section id="check">(.*?)</section>', text, re.DOTALL)
    assert found is not None
    return found[1]


def _cells(part: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", part, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def _charts(run: Run, verdict: Verdict) -> dict[str, Filled]:
    subject = Subject.of([run])
    parts, tables = html._parts(subject, verdict)
    section = next(part for part in parts if part.name == "check")
    return {c.name: filled(c, section, tables, subject) for c in section.charts}


def _without(text: str) -> str:
    """A report less the section, its places in the contents and the packed data."""
    text = re.sub(r'<section id="check">.*?</section>\n', "", text, flags=re.DOTALL)
    text = text.replace('<li><a href="#check">Check</a></li>\n', "")
    return re.sub(r'id="geoprobe-data">[^<]*<', "", text)


def test_only_the_section_tells_a_report_with_a_verdict_from_one_without(run: Run) -> None:
    plain, checked = _text(run, None), _text(run, planted())
    assert 'id="check"' not in plain
    assert "#check" not in plain
    assert _without(checked) == _without(plain) != plain
    # The phases stay with the charts of training.
    assert "Phases of training" not in _section(checked)
    assert "Phases of training" in checked


def test_it_comes_first_and_the_same_verdict_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    files = [write_report([run], tmp_path / name, verdict=planted()) for name in ("1", "2")]
    text = files[0].read_text("utf-8")
    assert files[1].read_text("utf-8") == text
    assert re.findall(r'<section id="([^"]+)">', text)[0] == "check"


@pytest.mark.parametrize(
    ("verdict", "word", "tone"),
    [
        (PASSED, "passed", "passed"),
        (FAILED, "FAILED", "failed"),
        (some(), "NOT COMPARABLE", "other"),
        (Verdict(()), "NOT COMPARABLE", "other"),
    ],
)
def test_the_verdict_is_in_words(run: Run, verdict: Verdict, word: str, tone: str) -> None:
    part = _section(_text(run, verdict))
    assert f'<b class="{tone}">{word}</b>' in part


def test_sentence_sides_problems_and_notes_are_there(run: Run) -> None:
    verdict = replace(planted(), problems=("Another corpus.",), notes=("Twice measured.",))
    part = _section(_text(run, verdict))
    assert "1 problem; 1 of 24 readings is missing, " in part
    assert "step256 against the baseline, step1." in part
    assert '<p class="notice">Another corpus.</p>' in part
    assert "Twice measured." in part


def test_a_verdict_without_readings_still_has_its_section(run: Run) -> None:
    part = _section(_text(run, Verdict((), problems=("No such file.",))))
    assert "No such file." in part
    assert "<figure" not in part
    assert "<table" not in part


def test_failed_and_missing_are_listed_worst_first_with_their_numbers(run: Run) -> None:
    verdict = planted()
    part = _section(_text(run, verdict)).split("<details>")[0]
    rows = _cells(part)
    wrong = worst_first([*verdict.of("missing"), *verdict.of("failed")])
    assert [row[1] for row in rows] == [change.site for change in wrong]
    assert rows[0] == [
        "Sink score",
        "attention.0",
        "head 0, text natural",
        "0.5000",
        "-",
        *[""] * 4,
    ]
    row = next(row for row in rows if row[0].startswith("RankMe") and row[1] == "embed")
    # From 100 to 86: 14 standard errors of 1, 28 floors of 0.5.
    assert row[3:] == ["100.0", "86.0", "-14.0", "-14", "-14", "28"]
    reasons = re.findall(r'<td class="why"[^>]*>(.*?)</td>', part)
    assert reasons == [change.why for change in wrong]


def test_long_tables_are_folded_and_what_is_left_out_is_counted(run: Run) -> None:
    verdict = Verdict(worst_first([changed(i, 50.0 - i / 10) for i in range(400)]))
    part = _section(_text(run, verdict))
    shown, folded = part.split("<details>")
    assert len(_cells(shown)) == 20
    assert "380 more that failed or are missing" in folded
    assert len(_cells(folded)) == 300
    assert "80 more; --junit and --json have all" in folded


def test_the_chart_shows_before_and_after_at_each_site_in_order(run: Run) -> None:
    chart = _charts(run, planted())["check-changes"]
    alt.Chart.from_dict(chart.spec)
    rows = [r for r in rows_of(chart, "points") if r["panel"].startswith("RankMe")]
    assert [row["place"] for row in sorted(rows, key=lambda r: r["order"])] == [
        *("embed", "0", "1", "2", "final")
    ]
    for row in rows:
        fall = -10.0 - ["final", "2", "1", "0", "embed"].index(row["place"])
        assert (row["before"], row["after"]) == (0.0, pytest.approx(fall))
        assert (row["lo"], row["hi"]) == (pytest.approx(-2.0), pytest.approx(2.0))
        assert row["status"] == "failed"
        assert row["now"] == f"{100 + fall:.1f}"
    # The worst measure stands in the first panel, what is the same in none.
    panels = list(dict.fromkeys(r["panel"].split("\n")[0] for r in rows_of(chart, "points")))
    assert panels[0] == "Sink score"
    assert {p.split(" ")[0] for p in panels} == {"Sink", "RankMe", "alpha-ReQ"}


def test_values_are_the_other_choice_of_axis(run: Run) -> None:
    subject = Subject.of([run])
    parts, tables = html._parts(subject, planted())
    (control,) = parts[0].controls
    assert [o.value for o in control.options] == [PERCENT, VALUES]
    points = tables["check_points"]
    values = {
        r["site"]: (r["before"], r["after"], r["lo"], r["hi"])
        for r in points.to_dicts()
        if r["scale"] == VALUES and r["panel"].startswith("RankMe")
    }
    assert values["embed"] == (100.0, 86.0, 98.0, 102.0)
    assert points.filter(scale=PERCENT).height == points.filter(scale=VALUES).height


def test_of_many_heads_the_worst_is_shown_and_what_is_missing_has_one_end(run: Run) -> None:
    chart = _charts(run, planted())["check-changes"]
    rows = {r["site"]: r for r in rows_of(chart, "points") if r["panel"].startswith("Sink")}
    assert rows["attention.1"]["keys"] == "head 7, text natural"
    assert rows["attention.1"]["after"] == pytest.approx(7.0)
    gone = rows["attention.0"]
    assert (gone["before"], gone["after"], gone["status"]) == (0.0, None, "missing")


def test_a_panel_is_for_a_measure_until_all_have_one(run: Run) -> None:
    keys = [{"tokens": "last"}, {"tokens": "all"}]
    changes = [
        of(measure, "final", 100.0, 100.0 - 10 * place, keys=key)
        for place, measure in enumerate(("nesum", "alpha", "rankme", "isoscore"), 2)
        for key in keys
    ]
    chart = _charts(run, Verdict(worst_first(changes)))["check-changes"]
    panels = list(dict.fromkeys(r["panel"] for r in rows_of(chart, "points")))
    assert len(panels) == MOST_PANELS
    assert [p.split("\n")[0].split(" ")[0] for p in panels[:4]] == [
        *("IsoScore", "RankMe", "alpha-ReQ", "NESum")
    ]
    assert all(panel.endswith("last") for panel in panels[:4])
    assert all(panel.endswith("all") for panel in panels[4:])


def test_readings_are_counted_by_measure_and_status(run: Run) -> None:
    verdict = planted()
    rows = rows_of(_charts(run, verdict)["check-counts"], "counts")
    counted: Counter[str] = Counter()
    for row in rows:
        counted[row["status"]] += row["readings"]
    assert counted == Counter(change.status for change in verdict.changes)
    names = list(dict.fromkeys(row["name"] for row in rows))
    assert names[0] == "Sink score"
    assert names[-1].startswith("NESum")  # the one measure that is the same
    sink = {r["status"]: (r["readings"], r["share"]) for r in rows if r["name"] == "Sink score"}
    assert set(sink) == set(STATUSES)
    assert sink["missing"] == (1, pytest.approx(1 / 9))


def test_what_is_not_finite_or_zero_breaks_no_chart(run: Run) -> None:
    changes = [
        of("rankme", "final", 0.0, 3.0),
        of("rankme", "embed", math.nan, 3.0),
        of("rankme", "block.0", 2.0, math.inf),
        of("alpha", "final", 0.0, math.nan, stderr=math.nan),
        of("alpha", "embed", None, 1.0),
    ]
    text = _text(run, Verdict(worst_first(changes)))
    assert 'data-chart="check-changes"' in text
    for chart in _charts(run, Verdict(worst_first(changes))).values():
        for rows in chart.spec["datasets"].values():
            numbers = [v for row in rows for v in row.values() if isinstance(v, float)]
            assert all(map(math.isfinite, numbers))


def test_hostile_verdicts_stay_text(run: Run) -> None:
    evil = Document(_text(run, hostile(60)))
    harmless = replace(
        hostile(60),
        changes=tuple(
            replace(c, site=c.site.replace(EVIL, "x"), why=c.why.replace(EVIL, "x"))
            for c in hostile(60).changes
        ),
        problems=("x",) * 5,
        notes=("x",) * 5,
    )
    plain = Document(_text(run, harmless))
    assert [t for t, _ in evil.elements] == [t for t, _ in plain.elements]
    assert evil.scripts[1:] == plain.scripts[1:]
    assert "\x1b" not in "".join(evil.text)
    assert HOSTILE in "".join(evil.text)


def test_the_command_writes_it_into_the_reports_of_runs(run: Run, tmp_path: Path) -> None:
    own = make_run(tmp_path / "run", steps=(0, 16, 256), blocks=3)
    found = Checked(planted(), own, None)  # type: ignore[arg-type]
    show: dict[str, Any] = {"json": False, "everything": False, "junit": None, "markdown": None}
    _show(found, quiet=True, **show)
    text = (own.path / "report.html").read_text("utf-8")
    assert '<b class="other">NOT COMPARABLE</b>' in _section(text)
    _show(replace(found, verdict=None), quiet=True, **show)
    assert 'id="check"' not in (own.path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_drawn_whatever_the_paper_and_the_axis(
    browser: Browser, run: Run, tmp_path: Path, dark: bool
) -> None:
    file = write_report([run], tmp_path / "r.html", verdict=planted())
    browser.open(file, until=DRAWN, dark=dark)
    marks = "document.querySelectorAll('[data-chart=check-changes] .mark-symbol path').length"
    assert browser.evaluate(marks) > 20
    assert browser.evaluate(EMPTY.replace("form[data-section]", "form[data-section=check]")) == []
    drawn = "[...document.querySelectorAll('svg.marks path')].map(p => p.getAttribute('d')).join()"
    assert "NaN" not in browser.evaluate(drawn)
    assert browser.complaints == []


def test_a_hostile_verdict_does_nothing(browser: Browser, run: Run, tmp_path: Path) -> None:
    file = write_report([run], tmp_path / "r.html", verdict=hostile(60))
    browser.open(file, until=DRAWN)
    assert browser.complaints == []
    assert browser.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert "pwned" not in browser.evaluate("document.title")
