"""Standard errors and bias correction against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe.measures import bias_corrected, jackknife

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


@given(groups=VALUES)
def test_of_a_mean_it_is_the_textbook_standard_error(groups: list[float]) -> None:
    """Leaving one of G group means out, the jackknife of their mean is std(ddof 1)/sqrt(G)."""
    values = np.array(groups)
    without = (values.sum() - values) / (len(values) - 1)
    found = jackknife(float(values.mean()), without)
    expected = values.std(ddof=1) / math.sqrt(len(values))
    assert found.value == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found.reason == ""


@given(replicates=VALUES, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
def test_it_moves_with_the_unit_and_not_with_the_level(
    replicates: list[float], shift: float, scale: float
) -> None:
    plain = jackknife(0.0, replicates).value
    moved = jackknife(0.0, [scale * value + shift for value in replicates]).value
    assert plain is not None
    assert moved == pytest.approx(scale * plain, rel=1e-6, abs=1e-9)


def test_groups_without_a_value_are_left_out() -> None:
    assert jackknife(1.0, [1.0, math.nan, 3.0]) == jackknife(1.0, [1.0, 3.0])
    assert jackknife(1.0, np.array([1.0, np.inf, 3.0])).value == 1.0


@pytest.mark.parametrize("replicates", [[], [1.0], [math.nan] * 8, [2.0, math.nan]])
def test_one_group_has_no_standard_error(replicates: list[float]) -> None:
    value, reason = jackknife(1.0, replicates)
    assert value is None
    assert "at least 2 groups" in reason


@pytest.mark.parametrize("full", [None, math.nan, math.inf])
def test_what_is_undefined_has_no_standard_error(full: float | None) -> None:
    value, reason = jackknife(full, [1.0, 2.0, 3.0])
    assert value is None
    assert "itself is undefined" in reason


@given(truth=st.floats(-100, 100), bias=st.floats(-100, 100), n=st.integers(2, 10**6))
def test_a_bias_of_one_over_n_is_removed(truth: float, bias: float, n: int) -> None:
    found = bias_corrected(truth + bias / n, truth + bias / (n / 2))
    assert found == pytest.approx(truth, abs=1e-9)
