"""TwoNN against brute force over pairwise distances, and on manifolds of known dimension."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from geoprobe.errors import UsageError
from geoprobe.measures import Undefined, intrinsic_dim, intrinsic_dim_ml, two_nn

GROUPS = 8


def brute(rows: np.ndarray) -> tuple[float, float]:
    """The definition, row by row, on rows without copies."""
    distance = cdist(rows, rows)
    mu = np.sort([r[2] / r[1] for r in np.sort(distance, axis=1)])
    n = len(rows)
    x = np.log(mu[: int(0.9 * n)])
    y = np.array([-np.log(1 - i / n) for i in range(1, len(x) + 1)])
    return np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], (n - 1) / np.log(mu).sum()


def unique(rows: np.ndarray) -> np.ndarray:
    return np.unique(rows, axis=0)


def gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, 40))


def decaying(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, 64)) / np.arange(1, 65)


def offset(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, 10)) + 1000.0


def clustered(rng: np.random.Generator, n: int) -> np.ndarray:
    """Clusters tighter than float32 can tell apart after their distances are subtracted."""
    centres = rng.standard_normal((n // 40, 12)) * 30.0
    return centres[rng.integers(0, len(centres), n)] + 0.02 * rng.standard_normal((n, 12))


def massive(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = rng.standard_normal((n, 20))
    rows[::50, 3] += 1000.0
    return rows


def surface(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.uniform(-1, 1, (n, 2)) @ rng.standard_normal((2, 15))


def copied(rng: np.random.Generator, n: int) -> np.ndarray:
    return gaussian(rng, n // 2)[rng.integers(0, n // 2, n)]


KINDS = [gaussian, decaying, offset, clustered, massive, surface, copied]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [12, 14, 700])
def test_equals_brute_force(kind, n: int) -> None:
    if kind is clustered and n < 40:
        n = 40
    rows = kind(np.random.default_rng(n), n)
    found = two_nn(rows) if len(unique(rows)) >= 10 else None
    if found is None:
        with pytest.raises(Undefined):
            two_nn(rows)
        return
    fit, ml = brute(unique(rows))
    assert found.n == len(unique(rows))
    assert found.fit == pytest.approx(fit, rel=1e-8)
    assert found.ml == pytest.approx(ml, rel=1e-8)
    assert found.fit_replicates is found.ml_replicates is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", [1, 25])
def test_replicates_equal_brute_force_without_the_group(kind, run: int) -> None:
    """In runs of 25 rows a group, neighbours of clustered rows leave together."""
    rng = np.random.default_rng(3)
    rows = kind(rng, 600)
    if kind is clustered:
        rows = rows[np.lexsort(np.rint(rows / 5).T)]
    groups = np.arange(len(rows)) // run % GROUPS
    found = two_nn(rows, groups)
    assert found.fit_replicates is not None
    assert found.ml_replicates is not None
    assert found[:3] == two_nn(rows)[:3]
    for g in range(GROUPS):
        fit, ml = brute(unique(rows[groups != g]))
        assert found.fit_replicates[g] == pytest.approx(fit, rel=1e-8)
        assert found.ml_replicates[g] == pytest.approx(ml, rel=1e-8)


def test_a_group_that_holds_most_neighbours_is_searched_anew() -> None:
    """All candidates of the rows of group 1 lie in group 0: every replicate needs a new search."""
    rng = np.random.default_rng(0)
    near = rng.standard_normal((20, 1, 6)) * 10
    rows = (near + 0.1 * rng.standard_normal((20, 20, 6))).reshape(-1, 6)
    groups = np.where(np.arange(400) % 20 < 2, 1, 0)
    found = two_nn(rows, groups, n_groups=2)
    for g in range(2):
        fit, ml = brute(rows[groups != g])
        assert found.fit_replicates[g] == pytest.approx(fit, rel=1e-8)
        assert found.ml_replicates[g] == pytest.approx(ml, rel=1e-8)


def test_several_blocks_of_rows_equal_brute_force() -> None:
    rows = decaying(np.random.default_rng(1), 1500)
    fit, ml = brute(rows)
    assert intrinsic_dim(rows) == pytest.approx(fit, rel=1e-8)
    assert intrinsic_dim_ml(rows) == pytest.approx(ml, rel=1e-8)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_of_a_manifold_is_found(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    flat = rng.uniform(-1, 1, (3000, dimension))
    curved = np.column_stack([np.sin(2 * flat), np.cos(3 * flat), flat**2])
    for value in (intrinsic_dim(curved), intrinsic_dim_ml(curved)):
        assert value == pytest.approx(dimension, rel=0.1)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-30, 1e30))
@settings(max_examples=15, deadline=None)
def test_rotation_shift_scale_and_order_do_not_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((80, 5))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    plain = two_nn(rows)
    moved = two_nn(scale * (rng.permutation(rows) @ turn + rng.normal(0, 10, 5)))
    assert moved.fit == pytest.approx(plain.fit, rel=1e-7)
    assert moved.ml == pytest.approx(plain.ml, rel=1e-7)


def test_copies_that_differ_by_rounding_are_one_point() -> None:
    rng = np.random.default_rng(0)
    rows = gaussian(rng, 300)
    again = rows[rng.integers(0, 300, 400)]
    noise = rng.standard_normal(again.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    noise *= 5e-7 * np.linalg.norm(again, axis=1, keepdims=True)
    groups = np.r_[np.arange(300), np.arange(400)] % GROUPS
    with_copies = two_nn(np.r_[rows, again + noise], groups, computed_in="float32")
    plain = two_nn(rows)
    assert with_copies.n == 300
    assert with_copies.fit == pytest.approx(plain.fit, rel=1e-12)
    assert with_copies.ml == pytest.approx(plain.ml, rel=1e-12)


def test_a_point_stays_while_a_copy_of_it_stays() -> None:
    """Every point has a copy in another group, so leaving one out changes nothing."""
    rows = gaussian(np.random.default_rng(0), 200)
    for jitter in (0.0, 1e-6):
        copies = rows * (1.0 + jitter)
        found = two_nn(np.r_[rows, copies], np.arange(400) // 50, computed_in="float32")
        np.testing.assert_allclose(found.fit_replicates, found.fit, rtol=1e-9)
        np.testing.assert_allclose(found.ml_replicates, found.ml, rtol=1e-9)


def test_groups_without_rows_or_without_a_dimension_are_nan() -> None:
    rows = gaussian(np.random.default_rng(0), 40)
    groups = np.where(np.arange(40) < 35, 0, 2)
    found = two_nn(rows, groups)
    assert found.fit_replicates is not None
    # Without group 0 only 5 rows are left; groups 1 and 3..7 have none.
    assert np.isfinite(found.fit_replicates).tolist() == [False, False, True] + [False] * 5


def test_degenerate_features_are_named() -> None:
    with pytest.raises(Undefined, match="1 of 50 rows are distinct"):
        two_nn(np.ones((50, 4)))
    with pytest.raises(Undefined, match="NaN"):
        two_nn(np.full((50, 4), np.nan))
    with pytest.raises(Undefined, match="lattice"):
        two_nn(np.eye(30))
    rows = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.raises(UsageError, match="20 rows, but groups of shape"):
        two_nn(rows, np.zeros(19, dtype=int))
    with pytest.raises(UsageError, match=r"0\.\.7"):
        two_nn(rows, np.full(20, 8))


def test_an_offset_does_not_matter_in_double_precision() -> None:
    rows = gaussian(np.random.default_rng(0), 400)
    assert two_nn(rows + 1e4).fit == pytest.approx(two_nn(rows).fit, rel=1e-4)
    assert two_nn(rows + 1e4).n == 400
