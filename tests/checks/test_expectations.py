"""Judgements: what follows from an expectation, against a plain account of the rules."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from geoprobe.checks.expectations import Expectation, judge, worst_first
from geoprobe.checks.verdict import Change, Verdict


def change(before: float | None = 100.0, after: float | None = 100.0, **more: Any) -> Change:
    named = {"probe": "spectrum", "measure": "rankme", "site": "block.3", "convention": "exact"}
    return Change(**{**named, "keys": {"tokens": "last"}, **more}, before=before, after=after)


def plain_status(found: Change, expected: Expectation, times: float) -> str:
    """The rules as they are documented, one after the other."""
    if expected.ignore:
        return "same"
    before, after = found.before, found.after
    if before is None and after is None:
        return "same"
    for value in (before, after):
        if value is None or value != value or value in (math.inf, -math.inf):
            return "missing"
    assert before is not None
    assert after is not None
    if expected.min is not None and after < expected.min:
        return "failed"
    if expected.max is not None and after > expected.max:
        return "failed"
    size = abs(after - before)
    floor = 0.0 if found.floor is None or not math.isfinite(found.floor) else found.floor
    if before == after or size <= times * floor:
        return "same"
    if expected.direction == "up":
        return "failed" if after < before else "moved"
    if expected.direction == "down":
        return "failed" if after > before else "moved"
    too_far = expected.abs == 0 or size > expected.abs
    too_large = expected.rel == 0 or before == 0 or size / abs(before) > expected.rel
    error = found.stderr if found.stderr and math.isfinite(found.stderr) else None
    too_sure = expected.sigmas == 0 or error is None or size / error > expected.sigmas
    return "failed" if too_far and too_large and too_sure else "moved"


# Few values, so that differences are often exactly at a threshold, and any others.
GRID = st.sampled_from([0.0, 1.0, 1.5, 2.0, 4.0, -1.0, -2.0])
ANY = st.floats(allow_nan=True, allow_infinity=True)
VALUES = st.one_of(st.none(), GRID, GRID, GRID, ANY)
SIZES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(0, 1e300))
BOUNDS = st.one_of(st.none(), st.none(), GRID)
EXPECTED = st.builds(
    Expectation,
    *(SIZES, SIZES, SIZES, st.sampled_from(["up", "down", "either", "either"])),
    *(BOUNDS, BOUNDS, st.sampled_from([False] * 9 + [True])),
)
CHANGES = st.builds(
    change, VALUES, VALUES, stderr=st.one_of(st.none(), SIZES), floor=st.one_of(st.none(), SIZES)
)


@settings(max_examples=1500, deadline=None)
@given(CHANGES, EXPECTED, st.sampled_from([0.0, 1.0, 10.0]))
@example(change(1e300, math.nextafter(1e300, 0)), Expectation(), 0.0)
@example(change(0.0, 5e-324), Expectation(), 1.0)
@example(change(1.0, 2.0, stderr=math.nan, floor=math.nan), Expectation(), 10.0)
@example(change(1.0, 2.0, stderr=math.inf, floor=math.inf), Expectation(), 10.0)
@example(change(-1e308, 1.7e308, stderr=1e-300, floor=1e-300), Expectation(rel=1.0), 10.0)
def test_a_judgement_is_what_the_rules_say(
    found: Change, expected: Expectation, times: float
) -> None:
    judged = judge(found, expected, times)
    assert judged.status == plain_status(found, expected, times)
    told = judged.status in ("failed", "missing") or expected.ignore
    assert bool(judged.why) == (told or (found.before is None and found.after is None))
    assert not math.isnan(judged.severity)
    assert math.isinf(judged.severity) == (judged.status == "missing")
    assert judged.severity >= 0
    assert judged.severity == 0 or judged.status != "same"
    names = ("before", "after", "stderr", "floor", "measure", "keys")
    assert all(repr(getattr(judged, n)) == repr(getattr(found, n)) for n in names)


@pytest.mark.parametrize("exceeded", itertools.product([False, True], repeat=3))
def test_thresholds_are_joined_by_and(exceeded: tuple[bool, bool, bool]) -> None:
    # A fall by 10, that is 10 % and 5 standard errors.
    far, large, sure = exceeded
    expected = Expectation(
        abs=9.0 if far else 11.0, rel=0.09 if large else 0.11, sigmas=4.0 if sure else 6.0
    )
    judged = judge(change(100.0, 90.0, stderr=2.0, floor=0.001), expected, 10.0)
    assert judged.status == ("failed" if all(exceeded) else "moved")


@pytest.mark.parametrize("name", ["abs", "rel", "sigmas"])
def test_a_difference_of_exactly_the_threshold_passes(name: str) -> None:
    exact = {"abs": 8.0, "rel": 0.125, "sigmas": 4.0}
    found = change(64.0, 56.0, stderr=2.0)
    others = dict.fromkeys(exact, 0.0)
    assert judge(found, Expectation(**{**others, name: exact[name]}), 1.0).status == "moved"
    below = math.nextafter(exact[name], 0)
    assert judge(found, Expectation(**{**others, name: below}), 1.0).status == "failed"


def test_without_an_error_or_a_size_before_those_thresholds_excuse_nothing() -> None:
    assert judge(change(100.0, 99.0), Expectation(sigmas=1e9), 1.0).status == "failed"
    assert judge(change(100.0, 99.0, stderr=0.0), Expectation(sigmas=1e9), 1.0).status == "failed"
    assert judge(change(0.0, 1.0), Expectation(rel=1e9), 1.0).status == "failed"
    assert judge(change(0.0, 1.0), Expectation(rel=1e9, abs=2.0), 1.0).status == "moved"


@pytest.mark.parametrize(
    ("direction", "after", "status"),
    [
        *(("up", 99.0, "failed"), ("up", 101.0, "moved"), ("up", 99.95, "same")),
        *(("down", 101.0, "failed"), ("down", 99.0, "moved"), ("down", 100.05, "same")),
    ],
)
def test_the_wrong_direction_fails_alone_and_the_right_one_never(
    direction: Any, after: float, status: str
) -> None:
    for generous in (0.0, 1e9):
        expected = Expectation(generous, generous, generous, direction)
        judged = judge(change(100.0, after, stderr=1.0, floor=0.01), expected, 10.0)
        assert judged.status == status
        assert ("must not" in judged.why) == (status == "failed")


@pytest.mark.parametrize("bounds", [{"min": 101.0}, {"max": 99.0}])
def test_a_bound_fails_alone_also_where_nothing_moved(bounds: dict[str, float]) -> None:
    generous = Expectation(1e9, 1e9, 1e9, **bounds)
    assert judge(change(100.0, 100.0), generous, 1.0).status == "failed"
    exact = Expectation(1e9, 1e9, 1e9, **dict.fromkeys(bounds, 100.0))
    assert judge(change(100.0, 100.0), exact, 1.0).status == "same"
    # Only the value now counts.
    low, high = judge(change(500.0, 100.0), exact, 1.0), judge(change(1.0, 100.0), exact, 1.0)
    assert [low.status, high.status] == ["moved", "moved"]


def test_the_floor_is_inclusive_and_times_what_is_given() -> None:
    found = change(100.0, 110.0, floor=1.0)
    assert judge(found, Expectation(), 10.0).status == "same"
    assert judge(found, Expectation(), 9.99).status == "failed"
    assert judge(change(100.0, 110.0), Expectation(), 10.0).status == "failed"
    assert judge(change(100.0, 100.0), Expectation(), 10.0).status == "same"


@settings(deadline=None)
@given(EXPECTED, GRID, st.booleans(), st.sampled_from([None, math.nan, math.inf]))
def test_what_is_missing_never_passes(
    expected: Expectation, value: float, swap: bool, gone: float | None
) -> None:
    assume(not expected.ignore)
    judged = judge(change(*((gone, value) if swap else (value, gone))), expected, 10.0)
    assert judged.status == "missing"
    assert judged.severity == math.inf
    assert ("baseline" if swap else "now") in judged.why
    assert Verdict((judge(change(), expected, 1.0), judged)).exit_code == 3


def test_a_reason_for_a_missing_value_is_kept_and_others_are_replaced() -> None:
    assert judge(change(1.0, None, why="not measured"), Expectation(), 1.0).why == "not measured"
    stale = change(1.0, 1.0, why="stale", status="failed", severity=9.0)
    assert judge(stale, Expectation(), 1.0) == change(1.0, 1.0)
    both = judge(change(None, None), Expectation(min=3.0), 1.0)
    assert (both.status, both.why) == ("same", "no value in either")
    ignored = judge(change(None, 1.0), Expectation(ignore=True), 1.0)
    assert (ignored.status, ignored.why) == ("same", "ignored")


def test_exit_codes_follow_from_the_judgements() -> None:
    same, moved = change(), change(100.0, 101.0, stderr=2.0)
    failed, missing = change(100.0, 110.0, stderr=2.0), change(100.0, None)
    for changes, code in [
        ((same, moved), 0),
        ((same, moved, failed), 1),
        ((same, moved, failed, missing), 3),
        ((), 3),
    ]:
        judged = [judge(found, Expectation(), 10.0) for found in changes]
        assert Verdict(tuple(judged)).exit_code == code
    assert Verdict((same,), problems=("another model",)).exit_code == 3


def test_the_reason_has_the_numbers() -> None:
    found = change(227.8, 215.5, stderr=2.0, floor=0.0585)
    expected = Expectation(rel=0.02, sigmas=0.0)
    assert judge(found, expected, 10.0).why == (
        "fell by 12.3 (5.4 %, 6.15 sigma, 210 x the numerical floor), and at most 2 % is expected"
    )
    assert judge(found, Expectation(abs=5.0, rel=0.02, sigmas=1.0), 10.0).why.endswith(
        "and at most the largest of 5, 2 % and 1 sigma is expected"
    )
    assert judge(change(1.0, 1.5), Expectation(rel=0.0), 1.0).why == (
        "rose by 0.5 (50 %), and no change beyond the numerical floor is expected"
    )
    assert judge(change(9.0, 1234.4), Expectation(1e9, max=1234.0), 1.0).why == (
        "is 1,234.4, above the most that is expected, 1,234"
    )
    assert judge(change(9.0, 9.0), Expectation(min=10.0), 1.0).why == (
        "is 9, below the least that is expected, 10"
    )


def test_a_reason_never_shows_a_number_on_the_wrong_side_of_its_limit() -> None:
    why = judge(change(100.0, 97.9999), Expectation(rel=0.02), 1.0).why
    assert "2.0001 %" in why
    assert "99.999999" in judge(change(9.0, 99.999999), Expectation(1e9, min=100.0), 1.0).why


@settings(deadline=None)
@given(st.floats(0.01, 1e6), st.floats(1.001, 1e3), st.booleans(), st.booleans())
def test_the_worse_of_two_failures_is_the_more_severe(
    size: float, times: float, falls: bool, bounded: bool
) -> None:
    expected = Expectation(rel=1e-6, max=1.0) if bounded else Expectation(rel=1e-6)
    sign = -1 if falls and not bounded else 1
    near, far = (
        judge(change(10.0, 10.0 + sign * by, stderr=1e-6, floor=1e-9), expected, 10.0)
        for by in (size, size * times)
    )
    assert near.status == far.status == "failed"
    assert near.severity < far.severity


def test_severity_is_the_least_ratio_and_beyond_a_bound_above_1000() -> None:
    # 10 is 2 x abs, 5 x rel, 10 x sigmas, 100 x the floor ten times.
    found = change(100.0, 90.0, stderr=1.0, floor=0.01)
    assert judge(found, Expectation(5.0, 0.02, 1.0), 10.0).severity == pytest.approx(2)
    assert judge(found, Expectation(0.0, 0.02, 1.0), 10.0).severity == pytest.approx(5)
    assert judge(found, Expectation(0.0, 0.0, 1.0), 10.0).severity == pytest.approx(10)
    assert judge(found, Expectation(0.0, 0.0, 0.0), 10.0).severity == pytest.approx(100)
    assert judge(found, Expectation(20.0), 10.0).severity == pytest.approx(0.5)
    assert judge(found, Expectation(min=180.0), 10.0).severity == pytest.approx(1000.5)
    assert judge(change(100.0, 90.0), Expectation(rel=0.0), 1.0).severity == pytest.approx(0.1)
    assert judge(change(0.0, 90.0), Expectation(rel=0.0), 1.0).severity == pytest.approx(90)


@settings(max_examples=50, deadline=None)
@given(st.lists(CHANGES, max_size=12))
def test_the_worst_comes_first_and_equals_stay_in_order(found: list[Change]) -> None:
    judged = [judge(c, Expectation(rel=0.5), 1.0) for c in found]
    ordered = worst_first(judged)
    assert sorted(map(id, ordered)) == sorted(map(id, judged))
    for one, other in itertools.pairwise(ordered):
        ranks = ["missing", "failed", "moved", "same"]
        a, b = ranks.index(one.status), ranks.index(other.status)
        assert a < b or (a == b and one.severity >= other.severity)
        if (a, one.severity) == (b, other.severity):
            places = [id(c) for c in judged]
            assert places.index(id(one)) <= places.index(id(other))
