"""Neural collapse: what class means, within-class scatter and classifier rows say of it.

Section 2 of the method. Class means are centred at their unweighted mean mu_G (some codes use the
mean of all samples, which moves with the sizes of the classes). Everything is float64, and pairs of
classes are taken in tiles, so that a vocabulary of classes is no trouble.

Shapes: C classes, d dimensions; `within` is the within-class covariance (1/N) sum (h - mu_c)(h -
mu_c)^T, `means` are the class means.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

_TILE = 1024
"""Classes whose pairs with all others are held at a time."""

_SAME = 1e-12
"""Below this share of the largest, a singular value or a squared distance is rounding."""


def nc1(within: ArrayLike, means: ArrayLike) -> float:
    """Within-class variability by the pseudo-inverse of Sigma_B: tr(Sigma_W pinv(Sigma_B)) / C.

    Papyan, Han and Donoho 2020 (arXiv 2008.08186), whose notebook leaves the division out. Sigma_B
    = (1/C) sum (mu_c - mu_G)(mu_c - mu_G)^T has rank min(C - 1, d), and the pseudo-inverse is taken
    at that rank, whatever rounding makes of the other eigenvalues.

    Args:
        within: Within-class covariance (d, d).
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or class means that are dependent beyond their centring.
    """
    centred = _centred(means)
    return _within_by_between(within, centred / math.sqrt(len(centred))) / len(centred)


def separation(within: ArrayLike, means: ArrayLike, counts: ArrayLike) -> float:
    """Separation fuzziness: tr(Sigma_W pinv(Sigma_B)) with Sigma_B weighted by class sizes.

    He and Su 2023 (arXiv 2210.17020), whose law has it decay geometrically with depth. Sigma_B =
    sum (n_c/N)(mu_c - mu)(mu_c - mu)^T around the mean of all samples.

    Args:
        within: Within-class covariance (d, d).
        means: Class means (C, d).
        counts: Samples of each class (C,).

    Raises:
        Undefined: As for `nc1`.
    """
    _centred(means)
    every = np.asarray(means, dtype=np.float64)
    shares = np.asarray(counts, dtype=np.float64)
    shares = shares / shares.sum()
    return _within_by_between(within, np.sqrt(shares)[:, None] * (every - shares @ every))


def nc1_quotient(within_trace: float, means: ArrayLike) -> float:
    """Quotient of traces, tr Sigma_W / tr Sigma_B (Tirer and Bruna 2022, arXiv 2202.08087).

    Args:
        within_trace: Mean squared distance of a sample to its class mean.
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    centred = _centred(means)
    return float(within_trace / np.mean((centred**2).sum(1)))


def cdnv(variances: ArrayLike, means: ArrayLike) -> float:
    """Class-distance normalised variance: mean over pairs of (V_i + V_j) / (2 |mu_i - mu_j|^2).

    Galanti, György and Hutter 2022 (arXiv 2112.15121).

    Args:
        variances: Mean squared distance to the class mean, of each class (C,).
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or two classes with the same mean.
    """
    centred = _centred(means)
    spread = np.asarray(variances, dtype=np.float64)
    total, pairs = 0.0, 0
    for start, squared in _squared_distances(centred):
        ratio = (spread[start : start + len(squared), None] + spread) / (2 * squared)
        ratio[_own(start, squared)] = 0.0
        total += float(ratio.sum())
        pairs += squared.size - len(squared)
    return total / pairs


def nc2_equinorm(vectors: ArrayLike, *, centre: bool = True) -> float:
    """Coefficient of variation of the norms: std/mean of |mu_c - mu_G|, or of classifier rows.

    Args:
        vectors: Class means or classifier rows (C, d).
        centre: Whether to centre them, as is done with means and not with rows.

    Raises:
        Undefined: Fewer than two classes, or vectors that are all the same.
    """
    found = _centred(vectors) if centre else np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(found, axis=1)
    if not norms.any():
        raise Undefined("every vector is zero")
    return float(norms.std() / norms.mean())


def nc2_equiangular(means: ArrayLike) -> float:
    """Mean over pairs of |cos + 1/(C-1)|: absolute, as signed deviations cancel in the mean.

    Args:
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or a class mean at mu_G.
    """
    unit = _unit(_centred(means))
    total = 0.0
    for start in range(0, len(unit), _TILE):
        cosines = unit[start : start + _TILE] @ unit.T
        off = np.abs(cosines + 1 / (len(unit) - 1))
        off[_own(start, cosines)] = 0.0
        total += float(off.sum())
    return total / (len(unit) * (len(unit) - 1))


def nc2_etf(means: ArrayLike) -> float:
    """Distance of the Gram matrix to a simplex equiangular tight frame's.

    |G/|G|_F - (I - 11^T/C)/sqrt(C-1)|_F of the centred means (Zhu et al. 2021, arXiv 2105.02375).

    Args:
        means: Class means (C, d).

    Returns:
        From `nc2_etf_floor` to sqrt(2).

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    centred = _centred(means)
    classes = len(centred)
    # |G|_F from the smaller of the two products that have it.
    small = centred if classes <= centred.shape[1] else centred.T
    size = float(np.linalg.norm(small @ small.T))
    total = 0.0
    for start in range(0, classes, _TILE):
        off = centred[start : start + _TILE] @ centred.T / size
        off += 1 / (classes * math.sqrt(classes - 1))
        off[_own(start, off)] -= 1 / math.sqrt(classes - 1)
        total += float((off**2).sum())
    return math.sqrt(total)


def nc2_etf_floor(classes: int, width: int) -> float:
    """What `nc2_etf` cannot go below in so few dimensions: sqrt(2 - 2 sqrt(d/(C-1))), or 0."""
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, width / (classes - 1)))))


def nc2_uniformity(means: ArrayLike) -> float:
    """Coefficient of variation of -ln distance over pairs of unit-normalised centred means.

    Hyperspherical uniformity, which is what more than d + 1 classes can have in place of an ETF (Wu
    and Papyan 2024, arXiv 2405.17767).

    Args:
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, two of them in one direction, or -ln distances whose mean
            is zero.
    """
    unit = _unit(_centred(means))
    energies = [
        -0.5 * np.log(squared[~_own(start, squared)]) for start, squared in _squared_distances(unit)
    ]
    count = sum(len(part) for part in energies)
    mean = math.fsum(float(part.sum()) for part in energies) / count
    variance = math.fsum(float(((part - mean) ** 2).sum()) for part in energies) / count
    if abs(mean) <= _SAME:
        raise Undefined("the mean -ln distance is zero, so that nothing can be divided by it")
    return math.sqrt(variance) / abs(mean)


def nc3_duality(weights: ArrayLike, means: ArrayLike) -> float:
    """|W^T/|W|_F - M/|M|_F|_F^2, squared as Papyan et al. have it; M are the centred means.

    Args:
        weights: Classifier rows (C, d).
        means: Class means (C, d).

    Returns:
        From 0, where they are proportional, to 4.

    Raises:
        Undefined: Fewer than two classes, or weights that are zero.
    """
    rows, centred = np.asarray(weights, dtype=np.float64), _centred(means)
    size = np.linalg.norm(rows)
    if not size:
        raise Undefined("the classifier's weights are zero")
    return float(((rows / size - centred / np.linalg.norm(centred)) ** 2).sum())


def nc3_cosine(weights: ArrayLike, means: ArrayLike) -> float:
    """Mean over classes of the cosine of a classifier row with the centred class mean.

    Args:
        weights: Classifier rows (C, d).
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or a row or a centred mean that is zero.
    """
    rows = _unit(np.asarray(weights, dtype=np.float64))
    return float((rows * _unit(_centred(means))).sum(1).mean())


def _centred(means: ArrayLike) -> Array:
    found = np.asarray(means, dtype=np.float64)
    if len(found) < 2:
        raise Undefined("a single class has nothing to be apart from")
    centred: Array = found - found.mean(0)
    if np.abs(centred).max() <= _SAME * np.abs(found).max():
        raise Undefined("all class means are the same")
    return centred


def _unit(vectors: Array) -> Array:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (norms <= _SAME * norms.max()).any():
        raise Undefined("a class has no direction: its vector is zero")
    return np.asarray(vectors / norms)


def _within_by_between(within: ArrayLike, factor: Array) -> float:
    """tr(Sigma_W pinv(F^T F)) of a factor (C, d), at rank min(C - 1, d)."""
    rank = min(len(factor) - 1, factor.shape[1])
    _, values, vectors = np.linalg.svd(factor, full_matrices=False)
    if values[rank - 1] <= _SAME * values[0]:
        raise Undefined(f"the class means do not span the {rank} dimensions that they could")
    along = vectors[:rank]
    scatter = ((along @ np.asarray(within, dtype=np.float64)) * along).sum(1)
    return float((scatter / values[:rank] ** 2).sum())


def _own(start: int, tile: Array) -> NDArray[np.bool_]:
    """Where a tile of pairs has a class with itself."""
    rows, columns = tile.shape
    return np.asarray(np.arange(start, start + rows)[:, None] == np.arange(columns))


def _squared_distances(vectors: Array) -> Iterator[tuple[int, Array]]:
    """Squared distances of some vectors to all, from the first of them on; 1 to themselves."""
    squares = (vectors**2).sum(1)
    for start in range(0, len(vectors), _TILE):
        rows = slice(start, start + _TILE)
        found = squares[rows, None] + squares - 2 * vectors[rows] @ vectors.T
        own = _own(start, found)
        found[own] = 1.0
        if (found <= _SAME * squares.max()).any():
            raise Undefined("two classes have the same mean or direction")
        yield start, found
