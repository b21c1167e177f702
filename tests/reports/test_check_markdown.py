"""What a check found as Markdown: it obeys no name, keeps its limit, and counts what it drops."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from geoprobe.checks.expectations import worst_first
from geoprobe.checks.verdict import Verdict
from geoprobe.errors import UsageError
from geoprobe.reports.check import append_step_summary, markdown
from tests.reports.test_check import FAILED, PASSED, changed, hostile, some


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
@example("&amp; &#65; &lt;b&gt;")
@example("a\\|b \\\\ \\* \\")
@example("1. - + = > # a")
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
