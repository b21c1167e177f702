"""Outputs of a check: they say what the verdict says, and obey nothing that is in a name."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console

from geoprobe.checks.expectations import Expectation, judge, worst_first
from geoprobe.checks.verdict import Change, Verdict
from geoprobe.errors import UsageError
from geoprobe.reports.check import (
    append_step_summary,
    document,
    exit_sentence,
    junit,
    markdown,
    render,
)
from tests.reports.factory import HOSTILE

EVIL = (
    f"{HOSTILE} | `code` **bold** _em_ ~~s~~ $x$ [l](http://e.x) ![i](http://e.x) www.e.x\n"
    "| --- |\n# head\n<!-- c --> &amp; @someone ]]> \x1b[31mred\x07 \x00 \ud800 \ufffe \u202e "
    "日本語👩"
)
SURE = Expectation(rel=0.02, sigmas=1.0)


def changed(place: int, after: float | None, **more: Any) -> Change:
    """A reading whose value was 100, judged."""
    named = {"probe": "spectrum", "measure": "rankme", "site": f"block.{place}"}
    rest = {"convention": "exact", "keys": {"tokens": "last"}, "before": 100.0}
    found = Change(**{**named, **rest, "stderr": 1.0, "floor": 0.001, **more}, after=after)
    return judge(found, SURE, 10.0)


def some(**more: Any) -> Verdict:
    """Failed, missing, moved, the same, and not judged."""
    changes = [
        *(changed(i, 90.0 - i) for i in range(3)),
        changed(3, None),
        *(changed(4 + i, 101.0 + 0.1 * i) for i in range(7)),
        *(changed(11 + i, 100.0) for i in range(5)),
        judge(changed(16, 50.0), Expectation(ignore=True), 10.0),
        changed(17, None, before=None),
    ]
    return Verdict(worst_first(changes), **more)


def without_missing(verdict: Verdict) -> Verdict:
    return replace(verdict, changes=tuple(c for c in verdict.changes if c.status != "missing"))


def hostile(n: int) -> Verdict:
    changes = [
        changed(
            i,
            [90.0 - i, None, 101.0, 100.0][i % 4],
            site=f"{i}{EVIL}",
            measure=EVIL if i % 3 else "rankme",
            probe=EVIL,
            convention=EVIL,
            keys={"tokens": EVIL, EVIL: i},
            **({"why": f"{EVIL}{i}"} if i % 4 == 1 else {}),
        )
        for i in range(n)
    ]
    side = {"label": EVIL * 3, EVIL: EVIL, "corpus": {EVIL: math.nan, "path": Path("a")}}
    return Verdict(worst_first(changes), (EVIL, "- x", "1. y"), (EVIL * 9,) * 5, side, side)


def shown(verdict: Verdict, *, width: int = 100, encoding: str = "utf-8", **options: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(verdict, Console(file=stream, width=width, force_terminal=False), **options)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


PASSED = Verdict((changed(1, 100.0), changed(2, 101.0)))
FAILED = without_missing(some())


# --- the sentence ------------------------------------------------------------------------------


def test_the_first_line_is_the_verdict() -> None:
    first = {
        name: shown(v, width=200).splitlines()[0] for name, v in (("p", PASSED), ("f", FAILED))
    }
    assert first["p"].startswith("passed: none of 2 readings moved beyond what is expected")
    assert "1 moved within it" in first["p"]
    assert first["f"].startswith("FAILED: 3 of 17 readings are not as expected")
    assert "7 moved within it; 2 not judged: ignored, no value in either" in first["f"]
    missing = shown(some(problems=("Another model.",))).splitlines()[0]
    assert missing.startswith("NOT COMPARABLE: 1 problem; 1 of 18 readings is missing, 3 of 18")
    assert shown(Verdict(())).startswith("NOT COMPARABLE: there is no reading to compare")
    alone = Verdict(PASSED.changes, problems=("Another model.",))
    assert shown(alone).startswith("NOT COMPARABLE: 1 problem (1 moved within it)")


def test_one_line_says_why_the_process_ends() -> None:
    assert exit_sentence(PASSED).startswith("passed: none of 2 readings")
    said = exit_sentence(FAILED)
    assert "RankMe (effective rank) at block.2 (last): fell by 12 (12 %" in said
    assert exit_sentence(some(problems=("Another model.", "b"))).endswith(". Another model.")
    assert "no value now" in exit_sentence(some())
    for verdict in (PASSED, FAILED, hostile(40), Verdict(())):
        line = exit_sentence(verdict)
        assert line.isprintable()
        assert line.endswith(".")
        assert not line.endswith("..")


# --- the terminal ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp437"])
def test_it_fits_and_obeys_nothing(width: int, encoding: str) -> None:
    for verdict in (some(problems=("a " * 90,), notes=("b " * 90,)), hostile(120)):
        for everything in (False, True):
            text = shown(verdict, width=width, encoding=encoding, everything=everything)
            assert max(map(cell_len, text.splitlines())) <= width
            assert not set(text) & {"\x1b", "\x07", "\x00", "\u202e"}
    assert "[bold red]x[/]" in shown(hostile(4), width=200)


def test_extreme_numbers_fit_too() -> None:
    values = (1e300, -1e300, 5e-324, 1e-300, 123456789.123456, 0.0, -0.000123456)
    changes = [
        changed(i * 10 + j, b, before=a, stderr=error, floor=floor, measure="intrinsic_dim_ml")
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        for error, floor in ((None, None), (1e-300, 5e-324), (1e300, 1e-9))
    ]
    extreme = Verdict(worst_first(changes))
    for width in (80, 100):
        text = shown(extreme, width=width, everything=True)
        assert max(map(cell_len, text.splitlines())) <= width
    for text in (markdown(extreme), junit(extreme)):
        assert "nan" not in text.lower().replace("nano", "")
    json.dumps(document(extreme), allow_nan=False)


def test_failed_and_missing_come_worst_first_and_the_rest_is_counted() -> None:
    changes = [changed(i, 50.0 + i) for i in range(30)] + [changed(99, None)]
    changes += [changed(100 + i, 101.0 + i / 100) for i in range(9)]
    text = shown(Verdict(tuple(reversed(changes))))
    rows = re.findall(r"^RankMe.*?(block\.\d+)", text, re.MULTILINE)
    assert rows[:20] == ["block.99", *(f"block.{i}" for i in range(19))]
    assert rows[20:] == [f"block.{i}" for i in range(108, 103, -1)]
    assert "Failed or missing (20 of 31, worst first)" in text
    assert "Moved within what is expected (5 of 9, worst first)" in text
    assert text.count("fell by") == 19


def test_everything_lists_all_readings() -> None:
    text = shown(some(), everything=True)
    assert sorted(re.findall(r"^RankMe.*?(block\.\d+)", text, re.MULTILINE)) == sorted(
        change.site for change in some().changes
    )
    assert "Same (7)" in text
    assert "Same" not in shown(some())


def test_a_row_has_the_numbers_and_the_reason_below() -> None:
    found = changed(3, 87.7, keys={"tokens": "last", "k": 10}, convention="garrido2023")
    lines = shown(Verdict((found,), notes=("Mind the gap.",)), width=140).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("RankMe"))
    heads = ["measure", "site", "keys", "before", "after", "change", "%", "sigmas", "x floor"]
    assert re.split(r"\s{2,}", lines[place - 1]) == heads
    assert re.split(r"\s{2,}", lines[place]) == [
        *("RankMe (effective rank)", "block.3", "last, k 10, garrido2023"),
        *("100.0", "87.7", "-12.3", "-12", "-12", "12,300"),
    ]
    assert lines[place + 1].strip() == found.why
    assert lines[-1] == "note: Mind the gap."


@pytest.mark.parametrize("width", [50, 80, 100])
def test_what_a_column_cuts_is_told_in_full_below(width: int) -> None:
    changes = [
        changed(1, after, measure=measure, keys={"tokens": "last", "sinks": "in", "k": k})
        for after in (90.0, 101.0)
        for measure in ("massive_activation", "participation_ratio_corrected", "alpha")
        for k in range(5)
    ]
    printed = shown(Verdict(tuple(changes)), width=width, everything=True)
    text = " ".join(printed.split())
    named = "participation_ratio_corrected, block.1, last, sinks in, k 4: fell by"
    assert (named in text) == (width < 100)
    assert named.partition(":")[0].replace(",", "") in text.replace(",", "")
    assert not [line for line in printed.splitlines() if line.isspace()]


def test_values_are_shown_to_the_digits_in_which_they_differ() -> None:
    text = shown(Verdict((changed(1, 100.0123, stderr=None),)))
    assert " 100.0000 " in text
    assert " 100.0123 " in text


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [PASSED, FAILED, some(), hostile(40), Verdict(())])
def test_the_document_is_json_without_nan(verdict: Verdict) -> None:
    found = document(verdict)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found, ensure_ascii=False, sort_keys=True).encode("utf-8")
    assert found["schema"] == "geoprobe.check/1"
    assert found["exit_code"] == verdict.exit_code
    assert sum(found["counts"].values()) == len(found["changes"]) == len(verdict.changes)
    for status, count in found["counts"].items():
        assert count == sum(c["status"] == status for c in found["changes"])


def test_the_document_has_all_of_a_change_and_null_for_what_is_no_number() -> None:
    found = changed(3, 90.0, p=0.5)
    (told,) = document(Verdict((found,)))["changes"]
    assert told["keys"] == {"tokens": "last"}
    assert (told["difference"], told["relative"], told["sigmas"]) == (-10.0, -0.1, -10.0)
    for name in ("before", "after", "stderr", "floor", "p", "status", "why", "severity", "site"):
        assert told[name] == getattr(found, name)
    gone = replace(changed(3, math.nan), before=math.inf)
    (told,) = document(Verdict((gone,)))["changes"]
    for name in ("before", "after", "difference", "relative", "sigmas", "severity"):
        assert told[name] is None


# --- JUnit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict", [PASSED, FAILED, some(problems=("a", "b"), notes=("c",)), hostile(60), Verdict(())]
)
def test_junit_counts_what_it_holds(verdict: Verdict) -> None:
    root = ElementTree.fromstring(junit(verdict))
    (suite,) = root
    cases = suite.findall("testcase")
    for element in (root, suite):
        assert int(element.get("tests", "")) == len(cases)
        for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(element.get(name, "")) == len(suite.findall(f"testcase/{tag}"))
    assert len(suite.findall("testcase/failure")) == len(verdict.of("failed"))
    wrong = len(suite.findall("testcase/failure") + suite.findall("testcase/error"))
    assert (wrong > 0) == (verdict.exit_code != 0)
    assert len(cases) == len(verdict.changes) + (len(verdict.problems) or not verdict.changes)


def test_junit_names_each_reading_once_and_says_why() -> None:
    changes = [
        changed(1, 90.0, keys={"tokens": "last", "k": 10}),
        changed(1, 90.0, keys={"tokens": "all", "k": 10}),
        changed(1, 100.0, convention="garrido2023"),
        changed(2, None),
    ]
    root = ElementTree.fromstring(junit(Verdict(tuple(changes), problems=("Another model.",))))
    cases = {c.get("name"): c for c in root.iter("testcase")}
    assert list(cases) == [
        *("comparable 1", "block.2 tokens=last", "block.1 tokens=last k=10"),
        *("block.1 tokens=all k=10", "block.1 tokens=last garrido2023"),
    ]
    assert {c.get("classname") for c in cases.values()} == {"geoprobe.check", "spectrum.rankme"}
    failure = cases["block.1 tokens=all k=10"].find("failure")
    assert failure is not None
    assert failure.get("message") == changes[1].why
    assert cases["block.2 tokens=last"].find("error") is not None
    assert [*cases["block.1 tokens=last garrido2023"]] == []


def test_junit_shows_hostile_names_and_holds_none_of_their_markup() -> None:
    root = ElementTree.fromstring(junit(hostile(8)))
    assert {e.tag for e in root.iter()} <= {
        *("testsuites", "testsuite", "testcase", "failure", "error", "skipped"),
        *("properties", "property", "system-out"),
    }
    assert any(
        "</script><img src=x onerror=" in (c.get("name") or "") for c in root.iter("testcase")
    )
    assert junit(hostile(8)).encode("utf-8")


def test_junit_of_thousands_of_readings_is_not_slow() -> None:
    many = hostile(5000)
    start = time.perf_counter()
    root = ElementTree.fromstring(junit(many))
    assert time.perf_counter() - start < 20
    assert len(root.findall("testsuite/testcase")) == 5003


# --- Markdown ----------------------------------------------------------------------------------


def rendered(text: str) -> list[Token]:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return parser.parse(text)


def table_rows(text: str) -> list[list[str]]:
    """Cells of all rows below the heads, as they are read."""
    rows: list[list[str]] = []
    inside = False
    for token in rendered(text):
        if token.type in ("tbody_open", "tbody_close"):
            inside = token.type == "tbody_open"
        elif inside and token.type == "tr_open":
            rows.append([])
        elif inside and token.type == "inline":
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


class Tags(HTMLParser):
    """Tags and attributes of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name != "style"]


def test_markdown_obeys_nothing_in_a_name() -> None:
    verdict = hostile(24)
    text = markdown(verdict)
    allowed = {"inline", "text", "text_special", "html_block", "paragraph", "heading", "list_item"}
    allowed |= {"bullet_list", "table", "thead", "tbody", "tr", "th", "td"}
    headings = 0
    for token in rendered(text):
        for part in (token, *(token.children or [])):
            assert part.type.removesuffix("_open").removesuffix("_close") in allowed, part
            headings += part.type == "heading_open"
    assert headings == 1
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert Tags(html).tags == {
        *("h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary")
    }
    for mark in ("://", "www.", "@", "`", "$", "<img", "\x1b", "\x07", "\u202e"):
        assert mark not in text
    rows = [row for row in table_rows(text) if len(row) > 3]
    assert len(rows) == 18
    for row in rows:
        assert len(row) == 10
        assert "</script><img src=x onerror=\"document.title='pwned'\"><!-- [bold" in row[1]
    assert len(re.findall("<li>", html)) == len(verdict.problems) + len(verdict.notes)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_name_is_read_in_markdown_as_it_is(name: str) -> None:
    (row,) = table_rows(markdown(Verdict((changed(1, 90.0, site=name),))))
    clean = " ".join(name.split())
    assert row[1].strip() == "".join(c if c.isprintable() else "?" for c in clean)


def test_markdown_has_the_wrong_in_the_open_worst_first_and_the_rest_folded() -> None:
    verdict = some(problems=("Another model.",), notes=("Mind.",), after={"label": "step3"})
    text = markdown(verdict)
    assert text.startswith("## geoprobe check: NOT COMPARABLE\n\n1 problem; 1 of 18 readings is")
    open_part, *folded = text.split("<details>")
    assert [row[1] for row in table_rows(open_part)] == ["block.3", "block.2", "block.1", "block.0"]
    assert "- Another model." in open_part
    assert [row[1] for row in table_rows(folded[0])] == [f"block.{i}" for i in range(10, 3, -1)]
    assert "- Mind." in folded[1]
    assert table_rows(folded[2]) == [["label", "", "step3"]]
    assert text.count("</details>") == 3
    assert "block.12" not in text


def test_markdown_of_what_passed_is_short() -> None:
    text = markdown(Verdict((changed(1, 100.0),)))
    assert text == (
        "## geoprobe check: passed\n\nNone of 1 reading moved beyond what is expected.\n"
    )


@pytest.mark.parametrize(
    ("measure", "after", "words"),
    [
        ("explained_variance", 90.0, "▼ worse"),
        ("explained_variance", 110.0, "▲ better"),
        ("dead_share", 90.0, "▼ better"),
        ("dead_share", 110.0, "▲ worse"),
    ],
)
def test_arrows_tell_better_from_worse(measure: str, after: float, words: str) -> None:
    (row,) = table_rows(markdown(Verdict((changed(1, after, measure=measure),))))
    assert row[5].endswith(words)
    for neutral in ("rankme", "unheard_of"):
        assert not set(markdown(Verdict((changed(1, after, measure=neutral),)))) & set("▲▼")


MANY = hostile(3000)
PLAIN = Verdict(
    worst_first(changed(i, [90.0 - i / 100, None, 101.0 + i / 1e4][i % 3]) for i in range(3000)),
    problems=tuple(f"Problem {i}." for i in range(100)),
    notes=tuple(f"Note {i}." for i in range(100)),
    before={f"fact {i}": i for i in range(100)},
)


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.integers(2000, 6000), st.integers(2000, 400_000)), st.booleans())
def test_markdown_stays_within_its_limit_and_counts_what_it_drops(limit: int, evil: bool) -> None:
    verdict = MANY if evil else PLAIN
    text = markdown(verdict, limit)
    assert len(text.encode("utf-8")) <= limit
    assert text.startswith("## geoprobe check: NOT COMPARABLE\n")
    assert text.count("<details>") == text.count("</details>")

    def dropped(name: str) -> int:
        found = re.search(rf"^([\d,]+) {name}s? not shown here\.$", text, re.MULTILINE)
        return int(found[1].replace(",", "")) if found else 0

    rows = [row for row in table_rows(text) if len(row) > 3]
    wrong = len(verdict.of("failed")) + len(verdict.of("missing"))
    moved = len(verdict.of("moved"))
    seen = sum("moved" not in row[9] and row[9] != "" for row in rows)
    assert seen + dropped("failed or missing reading") == wrong
    assert len(rows) - seen + dropped("moved reading") == moved
    listed = sum(token.type == "list_item_open" for token in rendered(text))
    assert listed + dropped("problem") + dropped("note") == len(verdict.problems + verdict.notes)
    # What is dropped is the least severe, and room is used.
    if not evil:
        expected = worst_first([*verdict.of("missing"), *verdict.of("failed")])
        assert [row[1] for row in rows[:seen]] == [change.site for change in expected[:seen]]
        if limit > 40_000:
            assert len(text.encode("utf-8")) > limit - 1000


@pytest.mark.parametrize("limit", [-5, 0, 1, 50, 100, 300, 500, 800, 1200])
def test_markdown_is_never_above_a_smaller_limit(limit: int) -> None:
    for verdict in (MANY, PLAIN, PASSED):
        text = markdown(verdict, limit)
        assert len(text.encode("utf-8")) <= max(0, limit)
        assert text == "" or text.startswith("## geoprobe check: ")


def test_without_a_limit_nothing_is_dropped() -> None:
    text = markdown(PLAIN)
    assert "not shown" not in text
    assert len([row for row in table_rows(text) if len(row) > 3]) == 3000
    assert markdown(PLAIN, len(text.encode())) == text
    assert "not shown" in markdown(PLAIN, len(text.encode()) - 1)


# --- the summary of a step ---------------------------------------------------------------------


def test_the_summary_is_appended_within_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    append_step_summary(FAILED, path)
    assert path.read_text("utf-8") == markdown(FAILED)
    append_step_summary(PASSED, path)
    assert path.read_text("utf-8") == f"{markdown(FAILED)}\n\n{markdown(PASSED)}"
    most = 1024 * 1024 * 9 // 10
    for there in (0, 700_000, most - 5000, most - 10, most + 10):
        path.write_bytes(b"x" * there)
        append_step_summary(MANY, path)
        size = path.stat().st_size
        assert path.read_bytes().startswith(b"x" * there)
        assert size <= max(most, there)
        assert (size > there) == (there <= most - 5000)


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "summary.md"):
        with pytest.raises(UsageError, match=rf"^{path.name}: the summary cannot be written: "):
            append_step_summary(PASSED, path)


def test_the_outputs_need_no_torch_and_no_charts() -> None:
    code = (
        "import sys, geoprobe.checks.expectations, geoprobe.reports.check\n"
        "bad = {'torch', 'transformers', 'altair', 'vl_convert'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
