"""Two sides, reading by reading: paired on the same text, by standard errors on another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geoprobe.checks.comparing import FAMILY_WISE, FLOOR_TIMES, compare, floors_between
from geoprobe.checks.expectations import Expectation, Expectations
from geoprobe.checks.sides import HALF, NUMERICS, Kept, Side
from geoprobe.checks.verdict import Verdict
from geoprobe.probes.readings import A_NULL
from tests.checks.test_sides import made, name

DEFAULTS = Expectations()


def kept(values: Any, **more: Any) -> Kept:
    """A mean of groups with its jackknife."""
    groups = np.asarray(values, dtype=float)
    left_out = (groups.sum() - groups) / (len(groups) - 1)
    error = float(groups.std(ddof=1) / np.sqrt(len(groups)))
    return Kept(float(groups.mean()), error, 80, "", tuple(left_out.tolist()), **more)


def _both(before: Kept, after: Kept, **options: Any) -> Verdict:
    return compare(made({name(): before}), made({name(): after}), DEFAULTS, **options)


@given(st.integers(0, 2**32 - 1))
def test_a_paired_difference_has_the_error_of_the_pairs(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.normal(5, 1, (2, 8))
    verdict = _both(kept(first), kept(second))
    change = verdict.changes[0]
    assert change.paired
    assert change.stderr == pytest.approx(np.std(second - first, ddof=1) / np.sqrt(8))
    expected = stats.ttest_rel(second, first)
    assert change.sigmas == pytest.approx(expected.statistic)
    assert change.p == pytest.approx(min(1.0, expected.pvalue))


@given(st.integers(0, 2**32 - 1))
def test_another_text_is_held_against_both_errors(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.normal(5, 1, (2, 8)) * np.array([[1.0], [3.0]])
    change = _both(kept(first), kept(second), unpaired=True).changes[0]
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert not change.paired
    assert change.sigmas == pytest.approx(expected.statistic)
    assert change.p == pytest.approx(min(1.0, expected.pvalue))
    assert (change.status == "same") == (expected.pvalue >= FAMILY_WISE)


def test_more_readings_need_a_larger_difference() -> None:
    draw = np.random.default_rng(0)
    first = kept(draw.normal(5, 1, 8))
    second = replace(first, value=first.value + 4.5 * first.stderr)  # type: ignore[operator]
    alone = _both(first, second, unpaired=True)
    assert alone.exit_code == 1
    names = [name(site=f"block.{i}") for i in range(400)]
    many = compare(
        made(dict.fromkeys(names, first)),
        made({**dict.fromkeys(names, first), names[7]: second}),
        DEFAULTS,
        unpaired=True,
    )
    assert many.exit_code == 0
    assert many.changes[0].p is None or many.changes[0].p > FAMILY_WISE


def test_a_difference_counts_from_the_floor_on() -> None:
    before = kept(np.full(8, 100.0) + np.arange(8) * 1e-6, floors={NUMERICS: 0.1})
    for shift, exit_code in ((0.5 * FLOOR_TIMES * 0.1, 0), (2 * FLOOR_TIMES * 0.1, 1)):
        after = replace(
            before,
            value=before.value + shift,  # type: ignore[operator]
            replicates=tuple(x + shift + 1e-4 * i for i, x in enumerate(before.replicates)),
        )
        assert _both(before, after).exit_code == exit_code


def test_half_precision_has_a_floor_of_its_own() -> None:
    before = kept(np.arange(8) + 100.0, floors={NUMERICS: 1e-6, HALF: 1.0})
    after = kept(np.arange(8) * 1.001 + 102.0)
    half = {"dtype": "bfloat16", "device": "cpu", "libraries": {}}
    assert _both(before, after).exit_code == 1
    side = made({name(): after}, environment=half)
    verdict = compare(made({name(): before}), side, DEFAULTS)
    assert verdict.exit_code == 0
    assert "bfloat16 now" in verdict.notes[0]
    without = replace(before, floors={NUMERICS: 1e-6})
    verdict = compare(made({name(): without}), side, DEFAULTS)
    assert verdict.exit_code == 3
    assert "no floor for that" in verdict.problems[0]


def test_a_floor_is_as_large_as_that_of_other_sites() -> None:
    names = [name(site=f"block.{i}") for i in range(3)]
    first = {n: Kept(10.0, s, 8) for n, s in zip(names, (1.0, 2.0, 4.0), strict=True)}
    second = {
        n: replace(k, value=10.0 + d)
        for (n, k), d in zip(first.items(), (0.1, 0.0, 0.1), strict=True)
    }
    floors = floors_between(made(first), made(second))
    assert list(floors.values()) == pytest.approx([0.1, 0.2, 0.4])
    same = floors_between(made(first), made(first))
    assert list(same.values()) == pytest.approx([1e-5] * 3)  # other machines round otherwise


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"model": {"family": "gpt2", "depth": 3, "width": 32}}, "another one"),
        (
            {"corpus": {"fingerprint": "c", "tokenizer": "u", "source": "x", "tokens": 9}},
            "tokenizer is another one",
        ),
        (
            {"corpus": {"fingerprint": "d", "tokenizer": "t", "source": "x", "tokens": 9}},
            "text is another one",
        ),
        ({"options": {"sequences": 41, "probes": ["spectrum"]}}, "sequences was 40"),
    ],
)
def test_what_does_not_compare_is_exit_3(header: dict[str, Any], words: str) -> None:
    verdict = compare(made(), made(**header), DEFAULTS)
    assert verdict.exit_code == 3
    assert words in " ".join(verdict.problems)


@given(st.data())
def test_what_is_missing_never_passes(data: st.DataObject) -> None:
    names = [name(site=f"block.{i}") for i in range(5)]
    draw = np.random.default_rng(0)
    whole = {n: kept(draw.normal(5, 1, 8)) for n in names}
    assert compare(made(whole), made(whole), DEFAULTS).exit_code == 0
    other = dict(whole)
    hit = data.draw(st.sampled_from(names))
    if data.draw(st.booleans()):
        del other[hit]
    else:
        other[hit] = Kept(None, None, 0, "the groups do not vary")
    unpaired = data.draw(st.booleans())
    for before, after in ((whole, other), (other, whole)):
        if len(before) < len(after):
            continue  # new readings are told, and there is nothing to compare them with
        verdict = compare(made(before), made(after), DEFAULTS, unpaired=unpaired)
        assert verdict.exit_code == 3
        assert verdict.changes[0].status == "missing"
        assert verdict.changes[0].why


def test_new_readings_are_told() -> None:
    more = made({name(): made().readings[name()], name(site="embed"): Kept(1.0, 0.1, 8)})
    verdict = compare(made(), more, DEFAULTS)
    assert verdict.exit_code == 0
    assert "Not in the baseline, and not compared: 1 of" in verdict.notes[0]


def test_nothing_to_compare_never_passes() -> None:
    empty = Side(made().header, {})
    assert compare(empty, empty, DEFAULTS).exit_code == 3


def test_another_text_says_nothing_of_readings_without_errors() -> None:
    before, after = Kept(5.0, None, 8, "a null"), Kept(7.0, None, 8, "a null")
    beside = {name(site="embed"): kept(np.arange(8))}
    sides = made({name(): before, **beside}), made({name(): after, **beside})
    verdict = compare(*sides, DEFAULTS, unpaired=True)
    assert verdict.exit_code == 0
    null = next(c for c in verdict.changes if c.site == "final")
    assert null.why.startswith("no standard error")
    assert compare(*sides, DEFAULTS).exit_code == 1
    # Where nothing else is there, nothing was checked.
    assert _both(before, after, unpaired=True).exit_code == 3


def test_nulls_are_there_to_compare_with() -> None:
    null = Kept(5.0, None, 8, A_NULL)
    beside = {name(site="embed"): kept(np.arange(8))}
    before, after = ({name(): one, **beside} for one in (null, replace(null, value=9.0)))
    verdict = compare(made(before), made(after), DEFAULTS)
    assert verdict.exit_code == 0
    assert {c.site: c.why for c in verdict.changes} == {"final": "a null, not judged", "embed": ""}
    del after[name()]
    assert compare(made(before), made(after), DEFAULTS).exit_code == 3


def _with_tokens_as_classes(before: Kept, after: Kept, **options: Any) -> Verdict:
    classes = name(keys='{"classes": "tokens"}')
    beside = {name(site="embed"): kept(np.arange(8))}
    expectations = options.pop("expectations", DEFAULTS)
    sides = made({classes: before, **beside}), made({classes: after, **beside})
    return compare(*sides, expectations, unpaired=True, **options)


def test_classes_that_are_tokens_are_the_texts_and_bounds_hold_on_any() -> None:
    few = Kept(None, None, 8, "too few classes")
    many = kept(np.arange(8) + 50.0)
    for before, after in ((kept(np.arange(8)), many), (few, many), (many, few)):
        verdict = _with_tokens_as_classes(before, after)
        assert verdict.exit_code == 0
        assert any("tokens of the text" in change.why for change in verdict.changes)
    bounded = Expectations(every=Expectation(max=10.0))
    assert _with_tokens_as_classes(many, many, expectations=bounded).exit_code == 1
    assert _with_tokens_as_classes(many, few, expectations=bounded).exit_code == 3


def test_no_error_is_no_excuse_from_a_bound_on_other_text() -> None:
    before, after = Kept(5.0, None, 8, "x"), Kept(7.0, None, 8, "x")
    bounded = Expectations(every=Expectation(max=6.0))
    sides = made({name(): before}), made({name(): after})
    verdict = compare(*sides, bounded, unpaired=True)
    assert verdict.changes[0].status == "failed"


def test_weights_are_the_same_on_any_text() -> None:
    of_weights = name(keys='{"of": "weights"}')
    before = Kept(5.0, None, 8, "no standard error: a property of the weights", (), {NUMERICS: 0.0})
    for shift, exit_code in ((0.0, 0), (5.0 * 5e-4, 0), (5.0 * 2e-3, 1)):
        after = replace(before, value=5.0 + shift)
        beside = {name(site="embed"): kept(np.arange(8))}
        sides = made({of_weights: before, **beside}), made({of_weights: after, **beside})
        assert compare(*sides, DEFAULTS, unpaired=True).exit_code == exit_code


def test_an_error_on_one_text_alone_is_no_error_of_the_difference() -> None:
    sharp, blunt = Kept(1.0, 0.0, 8, "", (1.0,) * 8), kept(np.arange(8) / 8)
    beside = {name(site="embed"): kept(np.arange(8))}
    for before, after in ((sharp, blunt), (blunt, sharp)):
        sides = made({name(): before, **beside}), made({name(): after, **beside})
        assert compare(*sides, DEFAULTS, unpaired=True).exit_code == 0
