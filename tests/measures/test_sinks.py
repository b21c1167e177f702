"""Sinks: scores and rates in closed form, planted stages, spans and levels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe import measures
from geoprobe.measures import Undefined
from geoprobe.measures.sinks import (
    is_massive,
    is_secondary,
    levels,
    primary_position,
    span,
    spans,
    stages,
)


def test_scores_and_rates_are_means_and_shares() -> None:
    scores = np.array([0.1, 0.3, 0.5, 0.9])
    assert measures.sink_score(scores) == pytest.approx(0.45)
    assert measures.sink_rate(scores) == 0.5, "a score of exactly eps does not count"
    assert measures.sink_rate(scores, eps=0.05) == 1.0
    assert measures.sink_mass([2.0, 4.0], [4, 8]) == 0.5
    with pytest.raises(Undefined):
        measures.sink_score([])
    with pytest.raises(Undefined):
        measures.sink_mass([0.0], [0])


def test_uniform_attention_has_the_harmonic_score() -> None:
    # Under a causal mask the query i gives 1/(i + 1) to every key.
    time = 64
    whole = np.tril(np.ones((time, time))) / np.arange(1, time + 1)[:, None]
    for k in (0, 5):
        expected = sum(1 / (i + 1) for i in range(k, time)) / (time - k)
        assert measures.sink_score([whole[k:, k].mean()]) == pytest.approx(expected)


def test_what_is_massive() -> None:
    assert is_massive(1000.0, 1.0)
    assert not is_massive(999.0, 1.0)
    assert not is_massive(100.0, 1e-3), "beyond 1000 medians, and not beyond 100"


def test_two_stages_are_two() -> None:
    norm = [1, 1, 9, 9, 1, 1, 50, 60, 50, 1]
    found = stages(norm, np.ones(10))
    assert [(s.start, s.end, s.peak) for s in found] == [(2, 4, 9.0), (6, 9, 60.0)]
    assert stages(np.ones(10), np.ones(10)) == []
    assert stages([3.0], [1.0]) == [(0, 1, 3.0)], "one block, to the end"
    assert stages([2.0, 2.1], [1.0, 1.0]) == [(1, 2, 2.1)], "exactly twice does not stand out"


def test_the_authors_span_goes_from_the_rise_to_the_fall() -> None:
    norm = [1, 1, 9, 9, 1, 1, 50, 60, 50, 1]
    assert span(norm) == (6, 9)
    assert span([1, 1, 50, 50]) == (2, 3)
    assert span([1, 50]) == (1, 2), "a rise into the last block has no fall"
    assert span([5.0]) == (0, 1)


def test_every_stage_has_a_span_by_the_authors_rule() -> None:
    # SmolLM2-135M's norms, coarsely: a modest stage, then a massive one.
    norm = [50, 207, 728, 725, 721, 714, 707, 697, 590, 164, 139, *[22900] * 17, 8629, 5233]
    median = [26, *[75] * 8, 120, 130, *[130] * 19]
    found = stages(norm, median)
    assert [s[:2] for s in found] == [(1, 9), (11, 30)]
    assert spans(norm, found) == [(2, 9), (11, 28)]
    assert spans(norm, []) == []
    first = [9, 9, 1, 1, 50, 50, 1]
    assert spans(first, stages(first, np.ones(7))) == [(0, 2), (4, 6)], "from the first block on"
    assert spans([9.0], stages([9.0], [1.0])) == [(0, 1)]


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e3)), min_size=1, max_size=30))
def test_spans_lie_in_order_and_do_not_overlap(norms: list[tuple[float, float]]) -> None:
    norm, median = zip(*norms, strict=True)
    places = stages(norm, median)
    found = spans(norm, places)
    for first, last in found:
        assert 0 <= first < last <= len(norm)
        assert any(s.start < last and first < s.end for s in places), "each is in a stage"
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    covered = [any(s.start < last and first < s.end for first, last in found) for s in places]
    assert all(covered) or span(norm) not in found


def test_a_rise_behind_a_stage_is_not_its_own() -> None:
    norm, median = [1, 1, 5, 15, 15, 100, 10], [1, 1, 1, 10, 10, 10, 10]
    assert [s[:2] for s in stages(norm, median)] == [(2, 3), (5, 6)]
    assert spans(norm, stages(norm, median)) == [(2, 3), (5, 6)]


@given(
    depth=st.integers(4, 40),
    data=st.data(),
)
def test_a_planted_plateau_is_its_own_span_and_stage(depth: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, depth - 2))
    end = data.draw(st.integers(start + 1, depth - 1))
    norm = np.ones(depth)
    norm[start:end] = 100
    assert span(norm) == (start, end)
    assert [s[:2] for s in stages(norm, np.ones(depth))] == [(start, end)]


def test_levels_are_first_block_and_lifetime_within_the_span() -> None:
    aligned = np.zeros((8, 4), dtype=bool)
    aligned[0, 0] = True  # before the span
    aligned[3:6, 1] = True
    aligned[[2, 4, 5], 2] = True  # with a gap: three blocks
    aligned[6, 3] = True  # behind the span
    found = levels(aligned, 2, 6)
    assert found.l_start.tolist() == [-1, 3, 2, -1]
    assert found.lifetime.tolist() == [0, 3, 3, 0]
    assert levels(aligned, 0, 0).l_start.tolist() == [-1] * 4, "no span, no level"


def test_both_labels_of_a_level() -> None:
    # Qwen3-4B-Base: 36 blocks, lifetime 18; DeepSeek-R1-Distill-Qwen-14B: 48, 22 to 45.
    assert is_secondary(18, 36, "authors")
    assert is_secondary(18, 36, "depth")
    assert is_secondary(22, 48, "authors")
    assert not is_secondary(45, 48, "authors")
    assert not is_secondary(45, 48, "depth")
    # Under 20 blocks the authors' margin leaves nothing; by depth there is something.
    assert not any(is_secondary(n, 19, "authors") for n in range(19))
    assert is_secondary(6, 12, "depth")
    assert not is_secondary(1, 12, "depth")


def test_the_primary_is_where_the_norm_is() -> None:
    norms = np.ones((5, 8))
    norms[3, 2] = 50  # behind a chat template
    assert primary_position(norms) == 2
