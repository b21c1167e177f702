"""Class means: what the measures of neural collapse have in common.

Class means are centred at their unweighted mean mu_G (some codes use the mean of all samples, which
moves with the sizes of the classes). Everything is float64, and pairs of classes are taken in
tiles, so that a vocabulary of classes is no trouble.

Shapes: C classes, d dimensions; `within` is the within-class covariance (1/N) sum (h - mu_c)(h -
mu_c)^T, `means` are the class means.
"""

from __future__ import annotations

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

TILE = 2**19
"""Pairs of classes that are held at a time, or a row of them where they are more."""

SAME = 1e-12
"""Below this share of the largest, a singular value or a squared distance is rounding."""


def centred_at_mean(means: ArrayLike) -> Array:
    """Class means (C, d) less their unweighted mean.

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    found = np.asarray(means, dtype=np.float64)
    if len(found) < 2:
        raise Undefined("a single class has nothing to be apart from")
    centred: Array = found - found.mean(0)
    if np.abs(centred).max() <= SAME * np.abs(found).max():
        raise Undefined("all class means are the same")
    return centred


def unit_vectors(vectors: Array) -> Array:
    """Vectors (C, d) over their norms.

    Raises:
        Undefined: One of them is zero.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (norms <= SAME * norms.max()).any():
        raise Undefined("a class has no direction: its vector is zero")
    return np.asarray(vectors / norms)


def tile_of(columns: int) -> int:
    """Rows of so many columns that are held at a time."""
    return max(1, TILE // max(1, columns))


def pairs(classes: int) -> Iterator[tuple[slice, slice, NDArray[np.bool_]]]:
    """Every pair of classes once, in tiles: rows, columns, and which of their pairs count."""
    start = 0
    while start < classes:
        end = min(start + tile_of(classes - start), classes)
        rows, columns = slice(start, end), slice(start, classes)
        yield rows, columns, np.arange(start, classes) > np.arange(start, end)[:, None]
        start = end
