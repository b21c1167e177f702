"""Superposition against polytopes that are known, brute force, and what must not change it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from geoprobe import measures
from geoprobe.errors import UsageError
from geoprobe.measures import Undefined
from geoprobe.measures.neurons import excess_kurtosis, paired_cosines, top_share
from geoprobe.measures.registry import card, cards
from geoprobe.measures.rows import gram, row_norms
from geoprobe.measures.superposition import plateau_surroundings


def regular(n: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def simplex(n: int) -> np.ndarray:
    """n unit vectors in n - 1 dimensions, at equal angles."""
    centred = np.eye(n) - 1 / n
    basis = np.linalg.svd(centred)[2][: n - 1]
    rows = centred @ basis.T
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def antiprism() -> np.ndarray:
    """Two squares, one turned by 45 degrees; at this height of each its points are a tight frame.

    Then sum_j (W_i . W_j)^2 = n/m = 8/3, and every point has 3/8.
    """
    square, height = regular(4) * np.sqrt(2 / 3), np.sqrt(1 / 3)
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    top = np.column_stack([square, np.full(4, height)])
    bottom = np.column_stack([square @ turn, np.full(4, -height)])
    return np.concatenate([top, bottom])


def brute(rows: np.ndarray) -> np.ndarray:
    products = (rows @ rows.T) ** 2
    shared = products.sum(1)
    own = np.diagonal(products)
    return np.divide(own, shared, out=np.zeros(len(rows)), where=shared > 0)


def cosines(rows: np.ndarray) -> np.ndarray:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = (units @ units.T)[np.triu_indices(len(rows), 1)]
    return found


def drawn(n: int, m: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.standard_normal((n, m)) * np.exp(draw.standard_normal((n, 1)))


matrices = st.builds(drawn, st.integers(2, 30), st.integers(1, 20), st.integers(0, 99))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("digon", simplex(2)),
        ("triangle", simplex(3)),
        ("tetrahedron", simplex(4)),
        ("pentagon", regular(5)),
        ("digon", regular(4)),  # a square is two of them
        ("square antiprism", antiprism()),
        ("its own dimension", np.linalg.qr(drawn(7, 5))[0].T),
        ("not represented", np.zeros((3, 4))),
    ],
)
def test_features_of_polytopes_have_their_plateau(name: str, rows: np.ndarray) -> None:
    values = measures.dimensionality(3.7 * rows)
    np.testing.assert_allclose(values, measures.superposition.PLATEAUS[name], atol=1e-9)
    shares = measures.plateau_share(values)
    assert shares.pop(name) == 1.0
    assert set(shares.values()) == {0.0}


def test_polytopes_side_by_side_keep_their_plateaus() -> None:
    rows = np.zeros((9 + 1, 5))
    rows[:5, :2], rows[5:9, 2:] = 2 * regular(5), 0.5 * simplex(4)
    values = measures.dimensionality(rows)
    np.testing.assert_allclose(values, [0.4] * 5 + [0.75] * 4 + [0.0], atol=1e-12)
    shares = measures.plateau_share(values)
    assert shares["pentagon"] == 0.5
    assert shares["tetrahedron"] == 0.4
    assert shares["not represented"] == 0.1
    assert measures.total_dimensionality(values) == pytest.approx(measures.matrix_rank(rows))


def test_a_value_near_two_plateaus_counts_once_and_a_broad_spread_is_expected_everywhere() -> None:
    shares = measures.plateau_share([0.385, 0.39, 0.42, 0.44])
    assert shares["square antiprism"] == 0.25
    assert shares["pentagon"] == 0.5
    even = np.linspace(0, 1, 100_001)
    around, near = plateau_surroundings(even), measures.plateau_share(even)
    for name in ("digon", "triangle", "tetrahedron"):
        assert around[name] == pytest.approx(0.04, rel=1e-3)
        assert near[name] == pytest.approx(0.04, rel=1e-3)
    for name in ("its own dimension", "not represented"):
        assert around[name] == pytest.approx(0.02, rel=1e-3)
    for name in ("pentagon", "square antiprism"):
        assert around[name] == pytest.approx(0.04, rel=1e-3)
    assert set(plateau_surroundings(np.full(9, 0.4)).values()) == {0.0}


@given(rows=matrices)
def test_dimensionality_is_what_all_products_give(rows: np.ndarray) -> None:
    values = measures.dimensionality(rows)
    np.testing.assert_allclose(values, brute(rows), rtol=1e-10)
    np.testing.assert_allclose(measures.dimensionality(rows.astype(np.float32)), values, rtol=1e-4)
    assert values.sum() <= measures.matrix_rank(rows) + 1e-9
    assert measures.matrix_rank(rows) == min(rows.shape)


@given(rows=matrices, seed=st.integers(0, 9), scale=st.sampled_from([1e-90, 0.3, 1e90]))
def test_rotation_scale_and_order_change_nothing(rows: np.ndarray, seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.standard_normal((rows.shape[1],) * 2))[0]
    order = draw.permutation(len(rows))
    other = scale * rows[order] @ rotation
    np.testing.assert_allclose(
        measures.dimensionality(other), measures.dimensionality(rows)[order], rtol=1e-9
    )
    for measure in (measures.interference, measures.coherence):
        assert measure(other) == pytest.approx(measure(rows), rel=1e-9)
    assert measures.frobenius_psi(other, "unit_rows") == measures.frobenius_psi(rows, "unit_rows")


@given(rows=matrices)
def test_interference_and_coherence_by_brute_force_and_their_floors(rows: np.ndarray) -> None:
    between, (n, m) = cosines(rows), rows.shape
    floor = measures.welch_bound(n, m)
    assert measures.interference(rows) == pytest.approx((between**2).mean(), rel=1e-9)
    assert measures.interference(rows) >= floor - 1e-12
    assert measures.coherence(rows) == pytest.approx(np.abs(between).max(), abs=1e-12)
    assert measures.coherence(rows) >= np.sqrt(floor) - 1e-12


@pytest.mark.parametrize("n", [2, 3, 6, 17])
def test_a_simplex_is_at_both_floors(n: int) -> None:
    floor = measures.welch_bound(n, n - 1)
    assert floor == pytest.approx(1 / (n - 1) ** 2)
    assert measures.interference(simplex(n)) == pytest.approx(floor, abs=1e-12)
    assert measures.coherence(simplex(n)) == pytest.approx(np.sqrt(floor), abs=1e-12)


def test_orthogonal_rows_do_not_interfere() -> None:
    assert measures.interference(np.eye(5, 9)) == 0.0
    assert measures.coherence(np.eye(5, 9)) == 0.0
    assert measures.welch_bound(5, 9) == 0.0
    assert measures.interference(np.repeat(np.eye(2), 2, axis=0)) == pytest.approx(1 / 3)


def test_independent_gaussian_rows_have_the_known_means() -> None:
    for n, m in ((600, 100), (100, 300), (200, 200)):
        rows = np.random.default_rng(0).standard_normal((n, m))
        assert measures.dimensionality(rows).mean() == pytest.approx(m / (m + n - 1), rel=0.01)
        assert measures.interference(rows) == pytest.approx(1 / m, rel=0.04)


def test_many_rows_are_read_in_blocks() -> None:
    rows = drawn(5000, 900, 3)  # of 2,330 rows each
    some = rows[:7]
    shared = ((some @ rows.T) ** 2).sum(1)
    np.testing.assert_allclose(
        measures.dimensionality(rows)[:7], (some**2).sum(1) ** 2 / shared, rtol=1e-10
    )
    wide = rows[:800, :].repeat(4, axis=1)[:, :3500]  # n < m, in two blocks of rows
    np.testing.assert_allclose(measures.dimensionality(wide), brute(wide), rtol=1e-9)
    assert measures.interference(wide) == pytest.approx((cosines(wide) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize("block", [1, 3, 7, 64, 1000])
def test_blocks_of_any_size_find_the_closest_pair(block: int) -> None:
    rows = drawn(90, 12, 5)
    between = np.abs(cosines(rows))
    found = measures.closest_pair(rows, block=block)
    assert abs(found.cosine) == pytest.approx(between.max(), abs=1e-12)
    first, second = np.array(np.triu_indices(90, 1))[:, between.argmax()]
    assert (found.first, found.second) == (first, second)


def test_what_float32_cannot_tell_apart_is_looked_at_again() -> None:
    """Angles of 1e-4 and a little more: their cosines differ by 1e-12 relative to 1 - 5e-9."""
    rows = np.eye(40, 30)
    rows[30:] = -np.eye(10, 30)
    rows[30:, 11] = 1e-2 * (1 + 1e-7 * np.arange(10))  # along row i - 30 by almost the same
    between = np.abs(cosines(rows))
    for block in (9, 100):
        found = measures.closest_pair(rows, block=block)
        assert abs(found.cosine) == pytest.approx(between.max(), abs=1e-15)
        assert (found.first, found.second) == (0, 30)
        assert found.cosine < 0


def test_many_pairs_that_are_as_close() -> None:
    """More of them than are looked at one by one."""
    rows = simplex(120)
    rows[77] += 1e-7 * rows[5]
    assert measures.coherence(rows) == pytest.approx(np.abs(cosines(rows)).max(), abs=1e-12)
    same = np.ones((300, 3))
    assert measures.coherence(same) == 1.0


def test_zero_rows_are_no_features() -> None:
    rows = drawn(20, 6, 1)
    padded = np.insert(rows, [0, 4, 20], 0.0, axis=0)
    values = measures.dimensionality(padded)
    assert not values[[0, 5, 22]].any()
    np.testing.assert_allclose(values[values > 0], measures.dimensionality(rows), rtol=1e-12)
    assert measures.interference(padded) == pytest.approx(measures.interference(rows), rel=1e-12)
    assert measures.coherence(padded) == pytest.approx(measures.coherence(rows), rel=1e-12)
    assert measures.frobenius_psi(padded, "unit_rows") == pytest.approx(20 / 6)
    pair = measures.closest_pair(padded)
    assert padded[pair.first].any()
    assert padded[pair.second].any()
    for undefined in (measures.interference, measures.coherence):
        with pytest.raises(Undefined, match="fewer than two rows"):
            undefined(padded[[0, 1, 5]])
    with pytest.raises(Undefined, match="every row is zero"):
        measures.dimensions_per_feature(np.zeros((3, 2)))
    assert measures.matrix_rank(np.zeros((3, 2))) == 0


def test_features_and_dimensions_of_a_toy_model() -> None:
    rows = np.zeros((10, 4))
    rows[:5, :2], rows[5, 2], rows[6, 3] = regular(5), 1, -1
    assert measures.frobenius_psi(rows) == pytest.approx(7 / 4)
    assert measures.dimensions_per_feature(rows) == pytest.approx(4 / 7)
    assert measures.frobenius_psi(3 * rows) == pytest.approx(9 * 7 / 4)
    assert measures.dimensions_per_feature(3 * rows, "unit_rows") == pytest.approx(4 / 7)
    np.testing.assert_allclose(row_norms(3 * rows), [3] * 7 + [0] * 3)
    assert measures.row_norm(row_norms(3 * rows)) == pytest.approx(2.1)
    with pytest.raises(UsageError, match="no convention 'exact'"):
        measures.frobenius_psi(rows, "exact")


def test_wrong_input_is_said_to_be_wrong() -> None:
    with pytest.raises(UsageError, match="two dimensions"):
        measures.dimensionality(np.ones(3))
    with pytest.raises(Undefined, match="empty"):
        measures.dimensionality(np.ones((0, 3)))
    bad = drawn(5, 3)
    bad[2, 1] = np.nan
    for measure in (measures.dimensionality, measures.interference, measures.coherence):
        with pytest.raises(Undefined, match="NaN or an infinity"):
            measure(bad)
    assert measures.dimensionality([[1.0, 0.0], [1.0, 0.0]]).tolist() == [0.5, 0.5]


class _Peak:
    def __enter__(self) -> _Peak:
        tracemalloc.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_pairs() -> None:
    n, m = 6000, 64
    rows = np.random.default_rng(0).standard_normal((n, m)).astype(np.float32)
    with _Peak() as peak:
        measures.coherence(rows, block=256)
    assert peak.size < n * n * 4 / 6  # half of which is a block of rows in float64
    with _Peak() as peak:
        measures.dimensionality(rows)
        measures.interference(rows)
    assert peak.size < n * n * 4 / 6


@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-75, 1.0, 1e70]))
def test_kurtosis_is_scipys(seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).standard_normal((50, 6)) ** 3
    centred = scale * (x - x.mean(0))
    m2, m4 = (centred**2).mean(0), (centred**4).mean(0)
    expected = scipy.stats.kurtosis(x, axis=0)
    np.testing.assert_allclose(excess_kurtosis(m2, m4), expected, rtol=1e-9)
    assert measures.kurtosis([*m2, 0.0], [*m4, 0.0]) == pytest.approx(expected.mean(), rel=1e-9)


def test_kurtosis_of_what_never_varies() -> None:
    with pytest.raises(Undefined, match="no neuron varies"):
        measures.kurtosis(np.zeros(3), np.zeros(3))
    assert np.isnan(excess_kurtosis([0.0], [0.0]))[0]


def test_privileged_basis_by_hand() -> None:
    variances = np.ones(250)
    variances[[3, 200]] = 50.0
    assert top_share(variances) == pytest.approx(100 / 348)  # two are 1 % of 250, rounded down
    assert top_share(variances[:50]) == pytest.approx(50 / 99)  # at least one
    even = np.ones((3, 250))
    assert measures.privileged_basis(variances, even) == pytest.approx(100 / 348 / (2 / 250))
    assert measures.privileged_basis(1e300 * variances, even[0]) == pytest.approx(
        measures.privileged_basis(variances, 1e-300 * even)
    )
    assert measures.privileged_basis(variances, np.roll(variances, 9)) == pytest.approx(1.0)
    with pytest.raises(Undefined, match="do not vary"):
        measures.privileged_basis(np.zeros(4), even)


def test_cosines_of_the_two_weights_of_neurons() -> None:
    first, second = drawn(9, 5, 1), drawn(9, 5, 2)
    second[4] = 0
    found = paired_cosines(first, second)
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    there = np.arange(9) != 4
    np.testing.assert_allclose(
        found[there], (first * second).sum(1)[there] / sizes[there], rtol=1e-12
    )
    assert np.isnan(found[4])
    assert measures.in_out_cosine(found) == pytest.approx(found[there].mean())
    assert measures.in_out_cosine(paired_cosines(first, -3 * first)) == pytest.approx(-1)
    with pytest.raises(Undefined, match="no neuron"):
        measures.in_out_cosine([np.nan])
    with pytest.raises(Undefined, match="differ"):
        paired_cosines(first, second[:3])


def test_the_gram_matrix_is_of_the_smaller_side() -> None:
    tall, wide = gram(drawn(9, 4)), gram(drawn(4, 9), unit=True)
    assert tall.matrix.shape == wide.matrix.shape == (4, 4)
    assert (tall.of_rows, wide.of_rows, tall.rows, wide.width) == (False, True, 9, 9)
    np.testing.assert_allclose(np.diagonal(wide.matrix), 1.0)
    assert measures.interference(wide) == measures.interference(drawn(4, 9))


GIVEN = {
    "dimensionality", "dimensionality_sum", "matrix_rank", "interference", "welch_bound",
    "coherence", "dimensions_per_feature", "frobenius_psi", "row_norm", "in_out_cosine",
    "kurtosis", "privileged_basis",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_cards_are_full(name: str) -> None:
    known = card(name)
    assert known.section == "superposition"
    for field in ("title", "symbol", "formula", "unit", "source", "pitfalls"):
        assert getattr(known, field), field
    assert known.function is not None
    assert known.bibtex.count("{") == known.bibtex.count("}")
    assert known.bibtex.count("  title = ") == known.bibtex.count("  author = ")


def test_every_card_of_superposition_is_known_and_has_a_symbol_of_its_own() -> None:
    assert {n for n, c in cards().items() if c.section == "superposition"} == GIVEN
    symbols = [c.symbol.casefold() for c in cards().values()]
    assert len(set(symbols)) == len(symbols)
