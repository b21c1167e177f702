"""Measures of a spectrum: method fixtures, closed forms, identities, independent computations."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.measures import (
    Undefined,
    isoscore,
    matrix_entropy,
    nesum,
    participation_ratio,
    participation_ratio_corrected,
    rankme,
    rankme_headless,
    spectrum,
    stable_rank,
    top1_share,
    top_eigenvalue,
)

SPECTRUM = st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=40).map(np.array)
ON_SPECTRA: dict[str, Callable[[np.ndarray], float]] = {
    "rankme": rankme,
    "rankme li2025": lambda v: rankme(v, "li2025"),
    "rankme garrido2023": lambda v: rankme(v, "garrido2023"),
    "rankme_headless": lambda v: rankme_headless(v, 1),
    "participation_ratio": participation_ratio,
    "participation_ratio_corrected": lambda v: participation_ratio_corrected(v, 1000),
    "nesum": nesum,
    "top1_share": top1_share,
    "isoscore": lambda v: isoscore(v, 50),
    "matrix_entropy": lambda v: matrix_entropy(v, 60, 50),
}


def power_law(exponent: float, d: int = 512) -> np.ndarray:
    return np.arange(1, d + 1) ** -float(exponent)


@pytest.fixture(scope="module")
def gaussian() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(1000, 1024)


def test_fixtures_of_the_method(gaussian: torch.Tensor) -> None:
    centred, uncentred = spectrum(gaussian), spectrum(gaussian, centre=False)
    assert rankme(centred, "li2025") == pytest.approx(613.4725, abs=5e-5)
    assert rankme(centred, "reptrix0.1") == rankme(centred, "li2025")
    assert rankme(centred) == pytest.approx(613.0542, abs=5e-5)
    assert rankme(uncentred, "garrido2023") == pytest.approx(814.3570, abs=5e-5)
    assert rankme(np.sqrt(uncentred)) == pytest.approx(813.8518, abs=5e-5)
    assert participation_ratio(centred) == pytest.approx(504.8416, abs=5e-5)
    moment = gaussian.double().numpy().T @ gaussian.double().numpy() / 1000
    found = stable_rank(float(np.trace(moment)), top_eigenvalue(moment))
    exact = gaussian.double().norm() ** 2 / torch.linalg.matrix_norm(gaussian.double(), 2) ** 2
    assert found == pytest.approx(float(exact), rel=1e-9)
    assert found == pytest.approx(250.5570, abs=1e-4)  # 250.55694 in float64: the last digit is off


@pytest.mark.parametrize(
    ("exponent", "rank", "ratio"),
    [(0.5, 409.5545, 281.6530), (1, 117.2312, 28.2808), (2, 5.0561, 2.4941)],
)
def test_power_laws(exponent: float, rank: float, ratio: float) -> None:
    values = power_law(exponent)
    assert rankme(values) == pytest.approx(rank, abs=5e-5)
    assert participation_ratio(values) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_singular_values_at_a_are_eigenvalues_at_half_a(exponent: float) -> None:
    # Without smoothing the identity is exact; with it, both carry the same 1e-7.
    assert rankme(np.sqrt(power_law(exponent))) == pytest.approx(rankme(power_law(exponent / 2)))
    assert rankme(power_law(exponent), "garrido2023") == pytest.approx(
        rankme(power_law(exponent / 2), "li2025"), rel=1e-12
    )


def test_truncation_at_2048_loses_what_the_method_says() -> None:
    values = power_law(0.7, 4096)
    assert rankme(values) == pytest.approx(1959, abs=0.5)
    # The smoothing of 2048 shares by 1e-7 adds 0.2% to the exact 1035.
    assert rankme(values[:2048]) == pytest.approx(1035, abs=0.5)
    assert rankme(values, "li2025") == rankme(values[:2048], "li2025")


@pytest.mark.parametrize("name", ON_SPECTRA)
@given(values=SPECTRUM, scale=st.floats(1e-200, 1e200), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_scale_and_order_do_not_matter(
    name: str, values: np.ndarray, scale: float, seed: int
) -> None:
    function = ON_SPECTRA[name]
    shuffled = np.random.default_rng(seed).permutation(values * scale)
    assert function(shuffled) == pytest.approx(function(values), rel=1e-9, abs=1e-12)


@given(k=st.integers(2, 60), zeros=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_equal_eigenvalues_count_themselves(k: int, zeros: int) -> None:
    values = np.r_[np.full(k, 0.3), np.zeros(zeros)]
    for function in (rankme, participation_ratio, nesum):
        assert function(values) == pytest.approx(k, rel=1e-12)
    assert top1_share(values) == pytest.approx(1 / k, rel=1e-12)
    assert rankme_headless(values, 1) == pytest.approx(k - 1, rel=1e-12)
    assert isoscore(values, k + zeros) == pytest.approx((k - 1) / (k + zeros - 1), rel=1e-12)
    assert matrix_entropy(values, 10**6, k) == pytest.approx(1.0, rel=1e-12)


@given(values=SPECTRUM)
@settings(max_examples=50, deadline=None)
def test_dimensions_are_ordered_as_renyi_entropies_are(values: np.ndarray) -> None:
    dimensions = [len(values), rankme(values), participation_ratio(values), nesum(values)]
    for larger, smaller in pairwise(dimensions):
        assert larger >= smaller * (1 - 1e-12)
    assert nesum(values) >= 1.0
    assert nesum(values) * top1_share(values) == pytest.approx(1.0)


def test_smoothing_counts_the_zero_eigenvalues() -> None:
    values = np.r_[power_law(1, 50), np.zeros(50)]
    zero = -1e-7 * math.log(1e-7)  # entropy of a share that is all smoothing
    for convention in ("li2025", "garrido2023"):
        capped = rankme(values, convention, n=50)
        assert capped == rankme(values[:50], convention)
        assert rankme(values, convention) == pytest.approx(capped * math.exp(50 * zero))
    assert rankme(values, n=50) == pytest.approx(rankme(values))


def test_few_samples_bias_rankme_and_twice_full_less_half_takes_most_of_it_out() -> None:
    rng = np.random.default_rng(0)
    population = power_law(0.7, 256)
    features = rng.standard_normal((1024, 256)) * np.sqrt(population)
    full = rankme(spectrum(features))
    half = np.mean([rankme(spectrum(features[:512])), rankme(spectrum(features[512:]))])
    truth = rankme(population)
    assert full < truth
    assert abs(2 * full - half - truth) < abs(full - truth) / 3


def test_corrected_participation_ratio_comes_nearer_to_the_population() -> None:
    rng = np.random.default_rng(0)
    population = power_law(0.5, 300)
    truth = participation_ratio(population)
    features = rng.standard_normal((100, 300)) * np.sqrt(population)
    naive = spectrum(features)
    error = abs(participation_ratio(naive) - truth)
    assert abs(participation_ratio_corrected(naive, 100) - truth) < error / 5
    with pytest.raises(Undefined, match="not below the 5 samples"):
        participation_ratio_corrected(np.ones(5), 5)


def test_isoscore_is_the_published_algorithm() -> None:
    """The steps of the paper: PCA, diagonal of the covariance, normalise, defect, rescale."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12)) + 5.0
    d = features.shape[1]
    centred = features - features.mean(axis=0)
    rotated = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    diagonal = np.cov(rotated.T).diagonal()
    normalised = math.sqrt(d) * diagonal / np.linalg.norm(diagonal)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    used = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    assert isoscore(spectrum(features), d) == pytest.approx((d * used - 1) / (d - 1), rel=1e-10)
    with pytest.raises(Undefined, match="one dimension"):
        isoscore(np.ones(1), 1)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_matrix_entropy_is_that_of_the_gram_matrix(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(5).standard_normal(shape) + 0.5
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    # -tr(K ln K) on the kernel side, through singular values of K = rows rows^T / n.
    kernel = np.linalg.svd(rows @ rows.T / len(rows), compute_uv=False)
    kernel = kernel[kernel > 1e-14]
    expected = -np.sum(kernel * np.log(kernel)) / math.log(min(shape))
    found = matrix_entropy(spectrum(rows, centre=False), *shape)
    assert found == pytest.approx(expected, rel=1e-10)


def test_matrix_entropy_at_its_ends() -> None:
    assert matrix_entropy(np.array([1.0, 0.0]), 9, 2) == 0.0
    with pytest.raises(Undefined, match="1 rows in 4"):
        matrix_entropy(np.ones(1), 1, 4)


def test_headless_drops_the_planted_head_only() -> None:
    tail = power_law(0.5, 100)
    assert rankme_headless(np.r_[tail, np.full(10, 1e6)]) == pytest.approx(rankme(tail))
    assert rankme_headless(tail, 0) == pytest.approx(rankme(tail))
    with pytest.raises(Undefined, match="has 3 eigenvalues above rounding and 3 are dropped"):
        rankme_headless(np.r_[np.ones(3), 1e-20], 3)
    with pytest.raises(UsageError, match="k is -1"):
        rankme_headless(tail, -1)


def test_stable_rank_is_undefined_without_features() -> None:
    assert stable_rank(6.0, 2.0) == 3.0
    with pytest.raises(Undefined, match="all features are zero"):
        stable_rank(0.0, 0.0)
    with pytest.raises(Undefined, match="nan"):
        stable_rank(math.nan, 1.0)


@pytest.mark.parametrize("name", ON_SPECTRA)
def test_degenerate_spectra_are_named(name: str) -> None:
    function = ON_SPECTRA[name]
    with pytest.raises(Undefined, match="features are constant"):
        function(np.zeros(5))
    with pytest.raises(Undefined, match="NaN"):
        function(np.array([1.0, math.nan]))
    with pytest.raises(Undefined, match="negative"):
        function(np.array([1.0, -0.5]))
    with pytest.raises(UsageError, match="one vector"):
        function(np.ones((2, 2)))


def test_an_unknown_convention_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"exact, li2025, garrido2023, reptrix0\.1"):
        rankme(np.ones(3), "stringer")
