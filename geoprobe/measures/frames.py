"""NC2, NC3 and NC4: the frame that class means form, and the classifier's.

Section 2 of the method; shapes and centring are those of `class_means`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.class_means import (
    centred_at_mean,
    tile_of,
    unit_vectors,
)
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")


@measure(
    name="nc2_equinorm",
    title="NC2, equal norms",
    symbol="NC2 norms",
    formula="Standard deviation over mean of |mu_c - mu_G| (key `of` = means), or of the norms of "
    "the classifier's rows (`rows`).",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186)",
    bibtex=sources.PAPYAN_2020,
    pitfalls=("Imbalanced classes collapse to means of different norms.",),
    section="collapse",
)
def nc2_equinorm(vectors: ArrayLike, *, centre: bool = True) -> float:
    """Coefficient of variation of the norms: std/mean of |mu_c - mu_G|, or of classifier rows.

    Args:
        vectors: Class means or classifier rows (C, d).
        centre: Whether to centre them, as is done with means and not with rows.

    Raises:
        Undefined: Fewer than two classes, or vectors that are all the same.
    """
    found = centred_at_mean(vectors) if centre else np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(found, axis=1)
    if not norms.any():
        raise Undefined("every vector is zero")
    return float(norms.std() / norms.mean())


@measure(
    name="nc2_etf",
    title="NC2, distance to a simplex ETF",
    symbol="NC2",
    formula="|G/|G|_F - (I - 11^T/C)/sqrt(C-1)|_F of the Gram matrix G of the centred class means.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Zhu et al. 2021 (arXiv 2105.02375)",
    bibtex=sources.ZHU_2021,
    pitfalls=(
        "More than d + 1 classes cannot form an ETF: nc2_etf_floor says how near they can come.",
    ),
    section="collapse",
)
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
    centred = centred_at_mean(means)
    classes = len(centred)
    size = gram_norm(centred)
    if classes - 1 > centred.shape[1]:
        # The ETF's Gram is the projection I - 11^T/C over sqrt(C-1), whose product with G is G's
        # trace. Exact but for rounding of the root near 0, and there is the floor.
        return math.sqrt(2 - 2 * float((centred**2).sum()) / (size * math.sqrt(classes - 1)))
    gram = centred @ centred.T / size
    gram += 1 / (classes * math.sqrt(classes - 1))
    gram[np.diag_indices(classes)] -= 1 / math.sqrt(classes - 1)
    return float(np.linalg.norm(gram))


@measure(
    name="nc2_etf_floor",
    title="Floor of the distance to an ETF",
    symbol="NC2 floor",
    formula="sqrt(2 - 2 sqrt(d/(C-1))) where d < C - 1, else 0.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe; a Gram matrix of rank d is nearest to the ETF as a projection",
    bibtex=sources.ZHU_2021,
    pitfalls=("It depends on the numbers of classes and dimensions alone.",),
    section="collapse",
)
def nc2_etf_floor(classes: int, width: int) -> float:
    """What `nc2_etf` cannot go below in so few dimensions: sqrt(2 - 2 sqrt(d/(C-1))), or 0.

    Raises:
        Undefined: Fewer than two classes.
    """
    if classes < 2:
        raise Undefined("a single class has nothing to be apart from")
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, width / (classes - 1)))))


@measure(
    name="nc3_duality",
    title="NC3, self-duality",
    symbol="NC3",
    formula="|W/|W|_F - M/|M|_F|_F^2, W the classifier rows, M the centred class means (C, d).",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186), squared",
    bibtex=sources.PAPYAN_2020,
    pitfalls=("Rows of unrelated directions give 2, not something large.",),
    section="collapse",
)
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
    rows, centred = np.asarray(weights, dtype=np.float64), centred_at_mean(means)
    size = np.linalg.norm(rows)
    if not size:
        raise Undefined("the classifier's weights are zero")
    return float(((rows / size - centred / np.linalg.norm(centred)) ** 2).sum())


@measure(
    name="nc3_cosine",
    title="NC3, cosine of rows and means",
    symbol="cos(w_c, mu_c)",
    formula="Mean over classes of the cosine of a classifier row with the centred class mean.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186); per class as in Wu and Papyan 2024",
    bibtex=sources.WU_PAPYAN_2024,
    pitfalls=("It ignores the norms that nc3_duality compares.",),
    section="collapse",
)
def nc3_cosine(weights: ArrayLike, means: ArrayLike) -> float:
    """Mean over classes of the cosine of a classifier row with the centred class mean.

    Args:
        weights: Classifier rows (C, d).
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or a row or a centred mean that is zero.
    """
    rows = unit_vectors(np.asarray(weights, dtype=np.float64))
    return float((rows * unit_vectors(centred_at_mean(means))).sum(1).mean())


@measure(
    name="nc4_mismatch",
    title="NC4, disagreement with the nearest class mean",
    symbol="NC4",
    formula="Share of samples for which the class whose mean is nearest and the network's answer, "
    "bias included, differ; both choose among the classes that were measured.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186)",
    bibtex=sources.PAPYAN_2020,
    pitfalls=(
        "A network that always answers wrong can agree with the class means: it says nothing of "
        "accuracy.",
        "Class means are those of the same data set, all groups included: the standard error is "
        "that of the samples, with the means as they are.",
    ),
    section="collapse",
)
def nc4_mismatch(nearest: ArrayLike, answers: ArrayLike) -> float:
    """Share of samples where two choices of a class differ.

    Args:
        nearest: The class whose mean is nearest, of each sample (n,).
        answers: The class that the network chooses (n,).

    Raises:
        Undefined: There are no samples.
    """
    first, second = np.asarray(nearest), np.asarray(answers)
    if not first.size:
        raise Undefined("there are no samples")
    return float((first != second).mean())


def nearest_means(features: ArrayLike, means: ArrayLike) -> NDArray[np.int64]:
    """The class whose mean is nearest to each sample; the first one of several.

    Args:
        features: Samples (n, d).
        means: Class means (C, d).
    """
    every = np.asarray(means, dtype=np.float64)
    # |h - mu|^2 less |h|^2, around the middle of the means, where both are small.
    middle = every.mean(0)
    every = every - middle
    half = (every**2).sum(1) / 2
    rows = np.asarray(features)
    found = np.empty(len(rows), dtype=np.int64)
    step = tile_of(len(every))
    for start in range(0, len(found), step):
        some = np.asarray(rows[start : start + step], dtype=np.float64) - middle
        found[start : start + step] = (some @ every.T - half).argmax(1)
    return found


def gram_norm(vectors: Array) -> float:
    """Frobenius norm of the Gram matrix of vectors (C, d), by the smaller product that has it."""
    small = vectors if len(vectors) <= vectors.shape[1] else vectors.T
    return float(np.linalg.norm(small @ small.T))
