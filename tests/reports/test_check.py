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
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from geoprobe.checks.expectations import Expectation, judge, worst_first
from geoprobe.checks.verdict import Change, Verdict
from geoprobe.reports.check import (
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
    return Verdict(
        worst_first(changes), (EVIL, "- x", "1. y", "2) z", "> q"), (EVIL * 9,) * 5, side, side
    )


def shown(verdict: Verdict, *, width: int = 100, encoding: str = "utf-8", **options: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(verdict, Console(file=stream, width=width, force_terminal=False), **options)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


PASSED = Verdict((changed(1, 100.0), changed(2, 101.0)))
FAILED = without_missing(some())


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


def test_a_narrow_console_has_fewer_columns_and_one_line_a_row() -> None:
    found = changed(1, -123456.789, before=123456.789)
    heads, rows = {}, {}
    for width in (40, 60, 72, 100):
        lines = shown(Verdict((found,)), width=width).splitlines()
        place = next(i for i, line in enumerate(lines) if line.startswith("measure"))
        heads[width] = lines[place]
        assert lines[place + 1].startswith("RankMe")
        assert lines[place + 2].startswith("    RankMe (" if width < 100 else "    fell by")
        rows[width] = lines[place + 1]
    assert heads[60].endswith("%")
    assert rows[60].endswith("-246,914 -200")
    assert heads[72].endswith("sigmas")
    assert rows[72].endswith("-246,914")
    assert heads[100].endswith("x floor")


def test_values_are_shown_to_the_digits_in_which_they_differ() -> None:
    text = shown(Verdict((changed(1, 100.0123, stderr=None),)))
    assert " 100.0000 " in text
    assert " 100.0123 " in text


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
    assert len(root.findall("testsuite/testcase")) == 5005


def test_the_outputs_need_no_torch_and_no_charts() -> None:
    code = (
        "import sys, geoprobe.checks.expectations, geoprobe.reports.check\n"
        "bad = {'torch', 'transformers', 'altair', 'vl_convert'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
