"""Neural collapse in closed form: simplex frames with isotropic noise, and what is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoprobe import measures as collapse
from geoprobe.measures import Undefined, class_means


def etf(classes: int, width: int, radius: float, seed: int, offset: float = 0.0) -> np.ndarray:
    """Class means that are a simplex frame of this centred norm, anywhere in the space (C, d)."""
    draw = np.random.default_rng(seed)
    basis = np.linalg.qr(draw.standard_normal((width, classes)))[0].T
    simplex = basis - basis.mean(0)
    return radius * math.sqrt(classes / (classes - 1)) * simplex + offset * draw.standard_normal(
        width
    )


FRAMES = {
    "classes": st.integers(2, 12),
    "more": st.integers(0, 20),
    "radius": st.floats(0.1, 100),
    "sigma": st.floats(0.001, 10),
    "seed": st.integers(0, 99),
}


@given(**FRAMES)
def test_a_simplex_frame_with_isotropic_noise_has_its_exact_values(
    classes: int, more: int, radius: float, sigma: float, seed: int
) -> None:
    width = classes + more
    means = etf(classes, width, radius, seed, offset=3 * radius)
    within = sigma**2 * np.eye(width)
    assert collapse.nc1(within, means) == pytest.approx(
        sigma**2 * (classes - 1) ** 2 / (classes * radius**2), rel=1e-9
    )
    balanced = np.full(classes, 7)
    assert collapse.separation(within, means, balanced) == pytest.approx(
        classes * collapse.nc1(within, means), rel=1e-9
    )
    trace = float(np.trace(within))
    assert collapse.nc1_quotient(trace, means) == pytest.approx(
        width * sigma**2 / radius**2, rel=1e-9
    )
    assert collapse.cdnv(np.full(classes, trace), means) == pytest.approx(
        width * sigma**2 * (classes - 1) / (2 * classes * radius**2), rel=1e-9
    )
    assert collapse.nc2_equinorm(means) < 1e-9
    assert collapse.nc2_equiangular(means) < 1e-9
    assert collapse.nc2_etf(means) < 1e-9
    assert collapse.nc3_duality(5 * (means - means.mean(0)), means) < 1e-18
    assert collapse.nc3_cosine(5 * (means - means.mean(0)), means) == pytest.approx(1)
    assert collapse.nc2_uniformity(means) < 1e-8


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "nc1": lambda w, m: collapse.nc1(w, m),
    "separation": lambda w, m: collapse.separation(w, m, np.arange(1, len(m) + 1)),
    "quotient": lambda w, m: collapse.nc1_quotient(float(np.trace(w)), m),
    "cdnv": lambda w, m: collapse.cdnv(np.full(len(m), np.trace(w)), m),
    "equinorm": lambda _, m: collapse.nc2_equinorm(m),
    "equiangular": lambda _, m: collapse.nc2_equiangular(m),
    "etf": lambda _, m: collapse.nc2_etf(m),
    "uniformity": lambda _, m: collapse.nc2_uniformity(m),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_do_not_see_rotation_scale_and_origin(name: str) -> None:
    draw = np.random.default_rng(1)
    means, half = draw.standard_normal((6, 9)), draw.standard_normal((9, 9))
    within = half @ half.T
    turn = np.linalg.qr(draw.standard_normal((9, 9)))[0]
    moved = 3 * means @ turn + draw.standard_normal(9)
    value = MEASURES[name](within, means)
    assert value > 0
    assert MEASURES[name](9 * turn.T @ within @ turn, moved) == pytest.approx(value, rel=1e-9)


def test_tiles_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    means, within = draw.standard_normal((23, 8)), np.eye(8)
    whole = {name: measure(within, means) for name, measure in MEASURES.items()}
    monkeypatch.setattr(class_means, "TILE", 40)
    for name, measure in MEASURES.items():
        assert measure(within, means) == pytest.approx(whole[name], rel=1e-12), name


def test_measures_are_those_of_their_formulas_pair_by_pair() -> None:
    draw = np.random.default_rng(3)
    means, counts = draw.standard_normal((7, 5)), np.array([3, 9, 4, 4, 8, 20, 2])
    half = draw.standard_normal((5, 5))
    within, spread = half @ half.T, draw.random(7)
    centred = means - means.mean(0)
    between = sum(np.outer(m, m) for m in centred) / 7
    assert collapse.nc1(within, means) == pytest.approx(
        np.trace(within @ np.linalg.inv(between)) / 7, rel=1e-9
    )
    middle = counts @ means / counts.sum()
    sized = (
        sum(n * np.outer(m - middle, m - middle) for n, m in zip(counts, means, strict=True))
        / counts.sum()
    )
    assert collapse.separation(within, means, counts) == pytest.approx(
        np.trace(within @ np.linalg.inv(sized)), rel=1e-9
    )
    ratios, angles, energies = [], [], []
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for i in range(7):
        for j in range(7):
            if i != j:
                ratios.append((spread[i] + spread[j]) / 2 / np.sum((means[i] - means[j]) ** 2))
                angles.append(abs(unit[i] @ unit[j] + 1 / 6))
                energies.append(-math.log(np.linalg.norm(unit[i] - unit[j])))
    assert collapse.cdnv(spread, means) == pytest.approx(np.mean(ratios), rel=1e-9)
    assert collapse.nc2_equiangular(means) == pytest.approx(np.mean(angles), rel=1e-9)
    expected = np.std(energies) / abs(np.mean(energies))
    assert collapse.nc2_uniformity(means) == pytest.approx(expected, rel=1e-9)
    gram = centred @ centred.T
    target = (np.eye(7) - 1 / 7) / math.sqrt(6)
    assert collapse.nc2_etf(means) == pytest.approx(
        np.linalg.norm(gram / np.linalg.norm(gram) - target), rel=1e-9
    )
    weights = draw.standard_normal((7, 5))
    off = weights / np.linalg.norm(weights) - centred / np.linalg.norm(centred)
    assert collapse.nc3_duality(weights, means) == pytest.approx((off**2).sum(), rel=1e-12)
    norms = np.linalg.norm(weights, axis=1)
    assert collapse.nc2_equinorm(weights, centre=False) == pytest.approx(norms.std() / norms.mean())


@given(classes=st.integers(4, 30), width=st.integers(1, 28), seed=st.integers(0, 99))
def test_no_means_are_nearer_to_the_frame_than_the_floor(
    classes: int, width: int, seed: int
) -> None:
    floor = collapse.nc2_etf_floor(classes, width)
    assert (floor == 0) == (width >= classes - 1)
    draw = np.random.default_rng(seed)
    assert collapse.nc2_etf(draw.standard_normal((classes, width))) >= floor - 1e-9
    if width < classes - 1:  # the frame's projection on a part of its space is at the floor
        frame = etf(classes, classes, 1.0, seed)
        vectors = np.linalg.svd(frame)[2][:width]
        assert collapse.nc2_etf(frame @ vectors.T) == pytest.approx(floor, abs=1e-9)


def test_a_rank_one_gram_is_as_far_as_can_be() -> None:
    halves = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert collapse.nc2_etf(halves) == pytest.approx(math.sqrt(2 - 2 / math.sqrt(3)))


def test_float32_means_that_break_a_naive_pseudo_inverse() -> None:
    """With NumPy's cutoff in float32 rounding's own eigenvalue is inverted as well."""
    means = etf(10, 10, 1.0, seed=4, offset=1000.0)
    within = 1e-6 * np.eye(10)
    exact = 1e-6 * 81 / 10
    rounded = means.astype(np.float32)
    centred = rounded - rounded.mean(0)
    naive = np.trace(within.astype("f4") @ np.linalg.pinv(centred.T @ centred / 10)) / 10
    assert abs(naive / exact - 1) > 0.1
    assert collapse.nc1(within, rounded) == pytest.approx(exact, rel=1e-3)


def test_what_has_no_value_says_why() -> None:
    eye = np.eye(3)
    for means, said in (
        (np.ones((1, 3)), "a single class"),
        (np.ones((4, 3)), "all class means are the same"),
        (np.array([[1.0, 0, 0], [2, 0, 0], [3, 0, 0]]), "do not span the 2 dimensions"),
    ):
        with pytest.raises(Undefined, match=said):
            collapse.nc1(eye, means)
    twins = np.array([[1.0, 0], [1, 0], [0, 1]])
    with pytest.raises(Undefined, match="two classes have the same"):
        collapse.cdnv(np.ones(3), twins)
    with pytest.raises(Undefined, match="has no direction"):
        collapse.nc2_equiangular(np.array([[1.0, 0], [-1, 0], [0, 0]]))
    with pytest.raises(Undefined, match="weights are zero"):
        collapse.nc3_duality(np.zeros((3, 2)), twins)


def test_solving_gives_what_the_pseudo_inverse_does(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    means, half = draw.standard_normal((30, 12)), draw.standard_normal((12, 12))
    counts, within = draw.integers(2, 9, 30), half @ half.T
    solved = collapse.nc1(within, means), collapse.separation(within, means, counts)
    monkeypatch.setattr("geoprobe.measures.collapse._WELL", math.inf)
    assert collapse.nc1(within, means) == pytest.approx(solved[0], rel=1e-10)
    assert collapse.separation(within, means, counts) == pytest.approx(solved[1], rel=1e-10)
    # Nearly dependent means, where a product of them has lost the digits that count.
    means[:, -1] = means[:, 0] + 1e-6 * draw.standard_normal(30)
    exact = collapse.nc1(within, means)
    monkeypatch.undo()
    assert collapse.nc1(within, means) == pytest.approx(exact, rel=1e-10)
