"""alpha: planted exponents, the method's fixtures, ranges that never shrink."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoprobe.errors import UsageError
from geoprobe.measures import Undefined, alpha, alpha_r2, alpha_r2_13_100, spectrum

LAST = {"li2025": 100, "stringer": 500, "reptrix0.1": 100}


def power_law(exponent: float, d: int = 512) -> np.ndarray:
    return np.arange(1, d + 1) ** -float(exponent)


def noisy(d: int = 600, seed: int = 0) -> np.ndarray:
    rough = power_law(0.9, d) * np.exp(0.2 * np.random.default_rng(seed).standard_normal(d))
    return np.sort(rough)[::-1]


def test_fixtures_of_the_method() -> None:
    torch.manual_seed(0)
    values = spectrum(torch.randn(1000, 1024))
    assert alpha(values, "reptrix0.1").alpha == pytest.approx(0.1489366, abs=5e-8)
    assert alpha(values, "li2025").alpha == pytest.approx(0.1533542, abs=5e-8)
    assert alpha(values).alpha == pytest.approx(0.1533542, abs=5e-8)  # rank/2 is beyond 100


@given(exponent=st.floats(0.05, 3.0), scale=st.floats(1e-100, 1e100))
@settings(max_examples=40, deadline=None)
def test_planted_exponents_are_found_at_any_scale(exponent: float, scale: float) -> None:
    for convention in ("exact", *LAST):
        fit = alpha(scale * power_law(exponent), convention)
        assert fit.alpha == pytest.approx(exponent, rel=1e-9)
        assert fit.r2 == pytest.approx(1.0)
        assert fit.r2_13_100 == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("convention", "first", "last"),
    [("exact", 12, 100), ("li2025", 12, 100), ("stringer", 11, 500), ("reptrix0.1", 11, 100)],
)
def test_the_fit_is_weighted_least_squares(convention: str, first: int, last: int) -> None:
    """Against a solver for least squares of rows scaled by the root of the weights."""
    values = noisy()
    fit = alpha(values, convention)
    assert (fit.first, fit.last) == (first, last)
    ranks = np.arange(first, last + 1)
    slope, level = np.polyfit(np.log(ranks), np.log(values[ranks - 1]), 1, w=ranks**-0.5)
    assert fit.alpha == pytest.approx(-slope, rel=1e-9)

    def r2(ranks: np.ndarray) -> float:
        y = np.log(values[ranks - 1])
        return 1 - ((y - level - slope * np.log(ranks)) ** 2).sum() / ((y - y.mean()) ** 2).sum()

    assert alpha_r2(values, convention) == pytest.approx(r2(ranks), rel=1e-9)
    assert alpha_r2_13_100(values, convention) == pytest.approx(r2(np.arange(13, 101)), rel=1e-9)


def test_ranks_outside_the_range_do_not_matter() -> None:
    values = noisy()
    changed = values.copy()
    changed[:11] *= 100.0
    changed[100:] *= 0.5
    assert alpha(changed, "li2025").alpha == pytest.approx(alpha(values, "li2025").alpha)
    assert alpha(changed, "reptrix0.1").alpha > alpha(values, "reptrix0.1").alpha


@pytest.mark.parametrize("rank", [62, 63, 150, 199])
def test_exact_ends_at_half_the_rank(rank: int) -> None:
    values = np.r_[power_law(1.2, rank), np.zeros(40)]
    fit = alpha(values)
    assert (fit.first, fit.last) == (12, rank // 2)
    assert fit.alpha == pytest.approx(1.2)
    assert (fit.r2_13_100 is None) == (rank < 100)


def test_exact_is_undefined_under_20_fitted_ranks() -> None:
    with pytest.raises(Undefined, match=r"61 eigenvalues above rounding.*at least 62"):
        alpha(power_law(1, 61))


@pytest.mark.parametrize(("convention", "last"), LAST.items())
def test_a_published_range_never_shrinks(convention: str, last: int) -> None:
    assert alpha(power_law(1, last), convention).last == last
    for short in (power_law(1, last - 1), np.r_[power_law(1, last - 1), np.zeros(500)]):
        with pytest.raises(Undefined, match=f"the spectrum has {last - 1} eigenvalues"):
            alpha(short, convention)


def test_rounding_residue_is_not_fitted() -> None:
    """99 centred samples have rank 98; what the solver leaves beyond is no eigenvalue."""
    features = np.random.default_rng(0).standard_normal((99, 300))
    with pytest.raises(Undefined, match="the spectrum has 98 eigenvalues"):
        alpha(spectrum(features), "li2025")


def test_missing_fit_qualities_have_their_reason() -> None:
    with pytest.raises(Undefined, match="the spectrum has 80 eigenvalues"):
        alpha_r2_13_100(power_law(1, 80))
    flat = alpha(np.ones(300))
    assert flat.alpha == pytest.approx(0.0, abs=1e-12)
    assert flat.r2 is None
    for function in (alpha_r2, alpha_r2_13_100):
        with pytest.raises(Undefined, match="nothing to explain"):
            function(np.ones(300))


def test_degenerate_spectra_and_conventions_are_named() -> None:
    with pytest.raises(Undefined, match="features are constant"):
        alpha(np.zeros(300))
    with pytest.raises(UsageError, match=r"exact, li2025, stringer, reptrix0\.1"):
        alpha(power_law(1), "garrido2023")
