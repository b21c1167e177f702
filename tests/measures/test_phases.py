"""Phases: published shapes, a second implementation by brute force, invariances."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.measures import phases

NAMES = ["warmup", "entropy-seeking", "compression-seeking"]
# Read off the figures of Li et al. 2025: tokens and RankMe.
OLMO_2_7B = [(4e8, 165), (7e8, 75), (2e9, 180), (1e10, 620), (6e10, 1040), (3e11, 640), (2e12, 340)]
PYTHIA_1B = [
    (2e6, 420),
    (1.3e8, 60),
    (1e9, 210),
    (4e9, 560),
    (2.4e10, 810),
    (1e11, 500),
    (3e11, 280),
]
# Multiples of 1/64: differences and sums are exact, so equal rises are equal.
LEVEL = st.integers(0, 450).map(lambda k: k / 64)
SERIES = st.lists(LEVEL, min_size=1, max_size=14)


def run(heights, errors=0.02, alphas=None, x=None):
    count = len(heights)
    return phases(
        list(range(count)) if x is None else x,
        heights,
        [errors] * count if isinstance(errors, float) else errors,
        [None] * count if alphas is None else alphas,
    )


@pytest.mark.parametrize(("curve", "trough", "peak"), [(OLMO_2_7B, 1, 4), (PYTHIA_1B, 1, 4)])
def test_published_shapes_have_three_phases(curve, trough: int, peak: int) -> None:
    tokens, rank = np.array(curve, dtype=float).T
    height = np.log(rank)
    alpha = 1.6 - 0.12 * height  # the exponent moves against RankMe
    found = phases(np.log1p(tokens), height, np.full(len(curve), 0.03), alpha)
    assert [phase.name for phase in found] == NAMES
    assert [(p.start, p.end) for p in found] == [(0, trough), (trough, peak), (peak, 6)]
    assert [p.change < 0 for p in found] == [True, False, True]
    assert all(p.alpha_opposes and p.significant for p in found)
    assert found[1].change == pytest.approx(math.log(rank[peak] / rank[trough]))
    assert found[1].start_x == pytest.approx(math.log1p(tokens[trough]))
    assert found[1].end_x == pytest.approx(math.log1p(tokens[peak]))
    assert found[1].stderr == pytest.approx(0.03 * math.sqrt(2))
    assert found[1].z == pytest.approx(found[1].change / found[1].stderr)


@given(heights=SERIES, error=st.floats(1e-9, 1.0))
@settings(max_examples=80, deadline=None)
def test_equals_the_rule_written_out(heights: list[float], error: float) -> None:
    rises = {(i, j): heights[j] - heights[i] for i, j in combinations(range(len(heights)), 2)}
    found = run(heights, error)
    if not rises or max(rises.values()) <= 0:
        assert found == []
        return
    best = max(rises.values())
    trough, peak = min(
        (pair for pair, rise in rises.items() if rise == best), key=lambda p: (p[1], -p[0])
    )
    segments = zip(NAMES, (0, trough, peak), (trough, peak, len(heights) - 1), strict=True)
    expected = [
        (name, i, j)
        for name, i, j in segments
        if abs(heights[j] - heights[i]) > 2 * math.hypot(error, error)
    ]
    assert [(p.name, p.start, p.end) for p in found] == expected
    for phase in found:
        assert (phase.change > 0) == (phase.name == "entropy-seeking")


@given(heights=SERIES, ln_factor=LEVEL, power=st.floats(0.2, 4.0))
@settings(max_examples=60, deadline=None)
def test_units_of_rankme_and_of_time_do_not_move_boundaries(
    heights: list[float], ln_factor: float, power: float
) -> None:
    moved = run(
        [height - ln_factor for height in heights],
        x=[(1.0 + i) ** power for i in range(len(heights))],
    )
    assert [p[:3] for p in moved] == [p[:3] for p in run(heights)]


@given(heights=SERIES, small=st.floats(1e-9, 0.5), more=st.floats(0.0, 0.5))
@settings(max_examples=40, deadline=None)
def test_larger_errors_only_take_phases_away(
    heights: list[float], small: float, more: float
) -> None:
    assert {p[:3] for p in run(heights, small + more)} <= {p[:3] for p in run(heights, small)}


def test_a_segment_within_two_errors_is_not_given() -> None:
    heights = [5.0, 4.9, 6.0, 5.0]
    assert [p.name for p in run(heights, 0.05)] == NAMES[1:]  # 0.1 < 2 sqrt(2) 0.05
    assert [p.name for p in run(heights, 0.03)] == NAMES
    assert run(heights, 1.0) == []


@pytest.mark.parametrize(
    ("heights", "names"),
    [
        ([3.0], []),
        ([], []),
        ([3.0, 5.0], ["entropy-seeking"]),
        ([5.0, 3.0], []),
        ([6.0, 5.0, 4.0, 3.0], []),
        ([3.0, 4.0, 5.0, 6.0], ["entropy-seeking"]),
        ([4.0, 4.0, 4.0], []),
        ([5.0, 3.0, 6.0], ["warmup", "entropy-seeking"]),
        ([3.0, 6.0, 5.0], ["entropy-seeking", "compression-seeking"]),
    ],
)
def test_short_and_monotone_series(heights: list[float], names: list[str]) -> None:
    assert [p.name for p in run(heights)] == names


def test_missing_checkpoints_are_passed_over_and_keep_their_indices() -> None:
    found = run([None, 5.0, math.nan, 3.0, 6.0, None])
    assert [(p.name, p.start, p.end) for p in found] == [
        ("warmup", 1, 3),
        ("entropy-seeking", 3, 4),
    ]


def test_without_an_error_a_segment_cannot_be_judged() -> None:
    heights = [5.0, 3.0, 6.0, 4.0]
    assert run(heights, [None] * 4) == []
    assert [p.name for p in run(heights, [None, 0.1, 0.1, math.nan])] == ["entropy-seeking"]
    assert run(heights, 0.0) == []


def test_alpha_is_a_flag_and_no_condition() -> None:
    heights = [5.0, 3.0, 6.0, 4.0]
    for alphas, flags in (
        ([0.5, 1.0, 0.6, 0.9], [True, True, True]),
        ([1.0, 0.5, 0.6, 0.4], [False, False, False]),
        ([None, 1.0, 0.6, math.nan], [False, True, False]),
    ):
        assert [p.alpha_opposes for p in run(heights, alphas=alphas)] == flags


def test_a_series_out_of_order_or_of_other_lengths_is_an_error() -> None:
    for x in ([0.0, 2.0, 1.0], [0.0, 1.0, 1.0], [0.0, math.nan, 1.0]):
        with pytest.raises(UsageError, match="in order"):
            run([1.0, 2.0, 3.0], x=x)
    with pytest.raises(UsageError, match="has 2 of x, 3 of ln RankMe"):
        run([1.0, 2.0, 3.0], x=[0.0, 1.0])
