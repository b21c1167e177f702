"""What pairs of class means say: distances against scatter, angles, uniformity. In one sweep.

Section 2 of the method; shapes and centring are those of `class_means`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.class_means import SAME, centred_at_mean, pairs
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")


class Pairwise(NamedTuple):
    """The three measures that look at every pair, each its value or why it is undefined."""

    cdnv: float | Undefined
    equiangular: float | Undefined
    uniformity: float | Undefined


def pairwise(means: ArrayLike, variances: ArrayLike | None = None) -> Pairwise:
    """All of them in one sweep over the pairs, tile by tile: they share the products.

    Args:
        means: Class means (C, d).
        variances: Mean squared distance to the class mean, of each class (C,), for cdnv.

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    centred = centred_at_mean(means)
    classes = len(centred)
    spread = np.zeros(classes) if variances is None else np.asarray(variances, dtype=np.float64)
    squares = np.einsum("cd,cd->c", centred, centred)
    norms = np.sqrt(squares)
    directed = bool((norms > SAME * norms.max()).all())
    apart = aligned = True
    ratios = off = 0.0
    energies = _Spread()
    for rows, columns, keep in pairs(classes):
        products = (centred[rows] @ centred[columns].T)[keep]
        distances = (squares[rows, None] + squares[columns])[keep] - 2 * products
        apart = apart and not (distances <= SAME * squares.max()).any()
        if apart:
            both = (spread[rows, None] + spread[columns])[keep]
            ratios += float((both / distances).sum()) / 2
        if directed:
            cosines = products / (norms[rows, None] * norms[columns])[keep]
            off += float(np.abs(cosines + 1 / (classes - 1)).sum())
            chords = 2 - 2 * cosines
            aligned = aligned and bool((chords > SAME).all())
            if aligned:
                energies.add(-0.5 * np.log(chords))
    count = math.comb(classes, 2)
    nowhere = Undefined("a class has no direction: its vector is zero")
    same = Undefined("two classes have the same mean or direction")
    return Pairwise(
        ratios / count if apart else same,
        off / count if directed else nowhere,
        energies.variation() if directed and aligned else same if directed else nowhere,
    )


class _Spread:
    """Mean and variance of numbers that come in parts."""

    def __init__(self) -> None:
        self.count, self.shift, self.first, self.second = 0, 0.0, 0.0, 0.0

    def add(self, values: Array) -> None:
        """Adds some, around the mean of the first."""
        if not self.count and len(values):
            self.shift = float(values.mean())
        around = values - self.shift
        self.count += len(values)
        self.first += float(around.sum())
        self.second += float((around**2).sum())

    def variation(self) -> float | Undefined:
        """Coefficient of variation."""
        offset = self.first / self.count
        mean = self.shift + offset
        if abs(mean) <= SAME:
            return Undefined("the mean -ln distance is zero, so that nothing can be divided by it")
        return math.sqrt(max(0.0, self.second / self.count - offset**2)) / abs(mean)


def defined(value: float | Undefined) -> float:
    """The value, where there is one.

    Raises:
        Undefined: There is none.
    """
    if isinstance(value, Undefined):
        raise value
    return value


@measure(
    name="cdnv",
    title="Class-distance normalised variance",
    symbol="CDNV",
    formula="Mean over pairs of classes of (V_i + V_j) / (2 |mu_i - mu_j|^2), V the mean squared "
    "distance to the class mean.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Galanti, György and Hutter 2022 (arXiv 2112.15121)",
    bibtex=sources.GALANTI_2022,
    pitfalls=("Two classes with almost the same mean dominate the average.",),
    section="collapse",
)
def cdnv(variances: ArrayLike, means: ArrayLike) -> float:
    """Class-distance normalised variance: mean over pairs of (V_i + V_j) / (2 |mu_i - mu_j|^2).

    Galanti, György and Hutter 2022 (arXiv 2112.15121).

    Args:
        variances: Mean squared distance to the class mean, of each class (C,).
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or two classes with the same mean.
    """
    return defined(pairwise(means, variances).cdnv)


@measure(
    name="nc2_equiangular",
    title="NC2, equal angles",
    symbol="NC2 angles",
    formula="Mean over pairs of classes of |cos(mu_i - mu_G, mu_j - mu_G) + 1/(C-1)|.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186), absolute",
    bibtex=sources.PAPYAN_2020,
    pitfalls=(
        "Signed deviations would cancel: the mean cosine of centred vectors is near -1/(C-1) "
        "whatever they are.",
    ),
    section="collapse",
)
def nc2_equiangular(means: ArrayLike) -> float:
    """Mean over pairs of |cos + 1/(C-1)|: absolute, as signed deviations cancel in the mean.

    Args:
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or a class mean at mu_G.
    """
    return defined(pairwise(means).equiangular)


@measure(
    name="nc2_uniformity",
    title="Hyperspherical uniformity",
    symbol="GNC2",
    formula="Coefficient of variation of -ln |u_i - u_j| over pairs of unit-normalised centred "
    "class means.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Wu and Papyan 2024 (arXiv 2405.17767)",
    bibtex=sources.WU_PAPYAN_2024,
    pitfalls=(
        "Divided by the mean of -ln distance, which is near zero for distances near 1; compare "
        "only for the same number of classes.",
    ),
    section="collapse",
)
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
    return defined(pairwise(means).uniformity)
