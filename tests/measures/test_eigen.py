"""Eigenvalues against the singular value decomposition, which shares no code with them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.measures import (
    Undefined,
    eigenvalues,
    numerical_rank,
    spectrum,
    top_eigenvalue,
)


def by_svd(features: np.ndarray, centre: bool) -> np.ndarray:
    if centre:
        features = features - features.mean(axis=0)
    return np.linalg.svd(features, compute_uv=False) ** 2 / len(features)


def orthogonal(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12), (2, 5), (5, 1)])
@pytest.mark.parametrize("centre", [True, False])
def test_spectrum_is_the_squared_singular_values(shape: tuple[int, int], centre: bool) -> None:
    features = np.random.default_rng(1).standard_normal(shape) + 3.0
    found = spectrum(features, centre=centre)
    assert found.shape == (min(shape),)
    assert np.all(np.diff(found) <= 0)
    assert np.all(found >= 0)
    np.testing.assert_allclose(found, by_svd(features, centre), atol=1e-12 * found[0])


@given(seed=st.integers(0, 10**6), n=st.integers(2, 25), d=st.integers(2, 25))
@settings(max_examples=40, deadline=None)
def test_spectrum_is_unchanged_by_rotation_shift_and_order(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, d)) * rng.uniform(0.1, 3.0, d)
    plain = spectrum(features)
    moved = (features @ orthogonal(d, seed))[rng.permutation(n)] + rng.normal(0, 50, d)
    np.testing.assert_allclose(spectrum(moved), plain, atol=1e-11 * plain[0])
    np.testing.assert_allclose(spectrum(-3.0 * features), 9.0 * plain, atol=1e-11 * plain[0])
    assert plain.sum() == pytest.approx(features.var(axis=0).sum(), rel=1e-12)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_known_rank_is_found_under_an_offset(seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((60, rank)) @ rng.standard_normal((rank, 20)) + 1000.0
    assert numerical_rank(spectrum(features - 1000.0)) == rank
    # The offset itself costs digits of the input, so rank is judged at that grain.
    assert np.count_nonzero(spectrum(features) > 1e-18 * 1000.0**2) == rank


def test_an_offset_of_1000_in_float32_moves_nothing_but_the_rounding_of_the_input() -> None:
    features = np.random.default_rng(0).standard_normal((400, 30))
    features[:, :3] += 1000.0
    given_ = features.astype(np.float32)
    plain = spectrum(features)
    assert np.abs(spectrum(given_) - plain).max() < 1e-4 * plain[0]


def test_constant_features_have_an_all_zero_spectrum() -> None:
    assert not spectrum(np.full((37, 5), 0.1)).any()
    assert numerical_rank(np.zeros(4)) == 0


def test_torch_tensors_of_any_dtype_are_taken() -> None:
    features = torch.arange(24, dtype=torch.bfloat16, requires_grad=True).reshape(6, 4)
    expected = spectrum(np.arange(24.0).reshape(6, 4))
    np.testing.assert_array_equal(spectrum(features), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_named(bad: float) -> None:
    features = np.ones((4, 3))
    features[1, 2] = bad
    with pytest.raises(Undefined, match="1 of 12 feature values"):
        spectrum(features)
    square = np.eye(3)
    square[2, 0] = bad
    for function in (eigenvalues, top_eigenvalue):
        with pytest.raises(Undefined, match="NaN or an infinity"):
            function(square)


def test_shapes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(Undefined, match=r"\(1, 3\)"):
        spectrum(np.ones((1, 3)))
    with pytest.raises(UsageError, match="two dimensions"):
        spectrum(np.ones((2, 3, 4)))
    with pytest.raises(UsageError, match=r"\(2, 3\)"):
        eigenvalues(np.ones((2, 3)))


def test_only_the_lower_triangle_is_read() -> None:
    square = np.cov(np.random.default_rng(0).standard_normal((6, 50)))
    np.testing.assert_array_equal(eigenvalues(np.tril(square)), eigenvalues(square))


def test_negative_eigenvalues_within_rounding_are_zero_and_others_an_error() -> None:
    column = np.arange(1.0, 41.0)[:, None]
    assert eigenvalues(column @ column.T).min() == 0.0
    with pytest.raises(Undefined, match="not a covariance"):
        eigenvalues(np.diag([1.0, 0.5, -1e-9]))


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.7, 3.0])
@pytest.mark.parametrize("d", [1, 5, 65, 200])
def test_top_eigenvalue_of_a_planted_spectrum(decay: float, d: int) -> None:
    planted = np.arange(1, d + 1) ** -decay
    basis = orthogonal(d, 3)
    matrix = basis * planted @ basis.T
    found = top_eigenvalue(matrix)
    assert found == pytest.approx(1.0, rel=1e-9)
    assert top_eigenvalue(matrix) == found


def test_top_eigenvalue_of_simple_matrices() -> None:
    assert top_eigenvalue(np.zeros((100, 100))) == 0.0
    assert top_eigenvalue(np.ones((100, 100))) == pytest.approx(100.0, rel=1e-12)
    assert top_eigenvalue(np.eye(100)) == pytest.approx(1.0, rel=1e-12)
    two = np.diag(np.r_[1.0, 1.0 - 1e-6, np.full(198, 0.5)])
    assert top_eigenvalue(two) == pytest.approx(1.0, rel=1e-9)
