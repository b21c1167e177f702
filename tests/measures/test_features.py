"""Effective features and what stands beside them: closed forms and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoprobe import measures
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.features import seeds_error

MASSES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e6)).filter(
    lambda m: m.max() > 1e-3
)


@pytest.mark.parametrize("count", [1, 2, 17, 4096])
def test_uniform_mass_counts_every_feature_and_one_hot_counts_one(count: int) -> None:
    assert measures.effective_features(np.full(count, 0.3)) == pytest.approx(count, rel=1e-12)
    one = np.zeros(count)
    one[count // 2] = 1e-9
    assert measures.effective_features(one) == pytest.approx(1, abs=1e-12)
    assert measures.psi(np.full(count, 2.0), 5) == pytest.approx(count / 5)


def test_two_features_of_unlike_mass() -> None:
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert measures.effective_features([1.0, 3.0, 0.0]) == pytest.approx(math.exp(entropy))


@given(MASSES, st.floats(1e-6, 1e6), st.randoms())
def test_neither_scale_nor_order_matter_and_it_is_between_one_and_all(
    mass: np.ndarray, scale: float, random: object
) -> None:
    found = measures.effective_features(mass)
    shuffled = np.random.default_rng(0).permutation(mass)
    assert measures.effective_features(shuffled * scale) == pytest.approx(found, rel=1e-9)
    assert 1 - 1e-12 <= found <= np.count_nonzero(mass) * (1 + 1e-12)


@given(MASSES)
def test_features_that_are_twins_count_twice(mass: np.ndarray) -> None:
    """The entropy of a mixture of k copies is ln k higher."""
    assert measures.effective_features(np.tile(mass, 3)) == pytest.approx(
        3 * measures.effective_features(mass)
    )


def test_predicting_the_mean_explains_nothing_and_less_is_negative() -> None:
    x = np.random.default_rng(0).normal(3, 1, (50, 4))
    total = ((x - x.mean(0)) ** 2).sum()
    assert measures.explained_variance(((x - x.mean(0)) ** 2).sum(), total) == 0
    assert measures.explained_variance((x**2).sum(), total) < 0
    assert measures.explained_variance(0.0, total) == 1


def test_what_is_recovered_runs_from_the_ablated_to_the_clean_loss() -> None:
    assert measures.loss_recovered(2.0, 2.0, 5.0) == 1
    assert measures.loss_recovered(2.0, 5.0, 5.0) == 0
    assert measures.loss_recovered(2.0, 3.0, 6.0) == pytest.approx(0.75)
    assert measures.loss_recovered(2.0, 7.0, 6.0) < 0


def test_l0_and_dead_features() -> None:
    assert measures.l0(12, 4) == 3
    assert measures.dead_share([0, 3, 0, 1]) == 0.5


def test_saturation_is_one_where_halves_have_what_the_whole_has() -> None:
    mass = np.array([1.0, 2.0, 3.0])
    assert measures.saturation([mass, 5 * mass], 6 * mass) == pytest.approx(1)
    assert measures.saturation([[1, 0], [0, 1]], [1, 1]) == pytest.approx(0.5)


def test_the_error_of_seeds_is_that_of_a_mean() -> None:
    assert seeds_error([1.0, 3.0]) == pytest.approx(1.0)
    assert seeds_error([4.0, 4.0, 4.0]) == 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda: measures.effective_features([0.0, 0.0]),
        lambda: measures.effective_features([]),
        lambda: measures.psi([1.0, math.nan], 2),
        lambda: measures.l0(0, 0),
        lambda: measures.explained_variance(0.0, 0.0),
        lambda: measures.explained_variance(math.nan, 1.0),
        lambda: measures.loss_recovered(2.0, 3.0, 2.0),
        lambda: measures.loss_recovered(2.0, 3.0, math.nan),
        lambda: measures.saturation([[0.0], [1.0]], [1.0]),
    ],
)
def test_what_has_no_value_says_so(broken: object) -> None:
    with pytest.raises(Undefined):
        broken()  # type: ignore[operator]
