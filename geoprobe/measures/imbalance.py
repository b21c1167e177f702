"""The geometry that imbalanced classes collapse to: the general orthogonal frame.

Dang et al. 2023 (arXiv 2301.00437): for M linear layers on free features without bias, trained on
|W_M ... W_1 H - Y|^2 / (2N) with weight decay, the global minimiser has orthogonal classifier rows
and orthogonal class means whose lengths follow from the class counts and the weight decays alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from geoprobe.errors import UsageError
from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

_HALVINGS = 200


class Frame(NamedTuple):
    """Squared lengths of the general orthogonal frame, class by class, up to a common factor.

    Attributes:
        rows: Of the rows of the classifier, W_M ... W_1 (C,).
        means: Of the class means (C,).
        logits: Of the mean logits, which lie on the axes (C,); not squared.
        collapsed: Classes so small that nothing is left of them, `minority collapse` (C,).
        threshold: Samples up to which a class collapses.
    """

    rows: Array
    means: Array
    logits: Array
    collapsed: NDArray[np.bool_]
    threshold: float


def general_orthogonal_frame(
    counts: ArrayLike, weight_decay_w: float, weight_decay_h: float, depth: int = 1
) -> Frame:
    """What the class counts and the weight decays predict.

    With b = M N (N lambda_W^M lambda_H)^(1/M), x_k is the global minimiser over x >= 0 of
    1/(x^M + 1) + (b/n_k) x, and s_k^2 = (N lambda_H)^(1/M) x_k. The squared lengths of the rows are
    s^2M, those of the means s^2M / (s^2M + N lambda_H)^2, the logits s^2M / (s^2M + N lambda_H).

    Args:
        counts: Samples of each class (C,).
        weight_decay_w: Weight decay lambda_W of every linear layer.
        weight_decay_h: That of the features, lambda_H.
        depth: Number M of linear layers.

    Returns:
        The frame. For M = 1 the rows are exact: |w_k|^2 = sqrt(n_k lambda_H/lambda_W) - N lambda_H.

    Raises:
        UsageError: Counts, weight decays or the depth that are not positive.
    """
    sizes = np.asarray(counts, dtype=np.float64)
    if not sizes.size or sizes.min() <= 0:
        raise UsageError("Every class needs at least one sample to have a predicted geometry.")
    if min(weight_decay_w, weight_decay_h) <= 0:
        raise UsageError(
            f"Weight decays of {weight_decay_w:g} and {weight_decay_h:g}: both must be positive, "
            "as without one of them no geometry is preferred."
        )
    if depth < 1:
        raise UsageError(f"A depth of {depth}: give the number of linear layers, from 1 on.")
    total = float(sizes.sum())
    decay = total * weight_decay_h
    b = depth * total * (total * weight_decay_w**depth * weight_decay_h) ** (1 / depth)
    x = np.array([_minimiser(b / size, depth) for size in sizes])
    power = decay * x**depth  # s^2M
    return Frame(
        power,
        power / (power + decay) ** 2,
        power / (power + decay),
        x == 0,
        b / _largest_slope(depth),
    )


def _largest_slope(depth: int) -> float:
    """The b/n from which on the global minimiser is 0: (M-1)^((M-1)/M) / M, for M = 1 it is 1."""
    return float((depth - 1) ** ((depth - 1) / depth) / depth) if depth > 1 else 1.0


def _minimiser(slope: float, depth: int) -> float:
    """The x >= 0 where 1/(x^M + 1) + slope x is least; 0 where no other place is lower."""
    if slope >= _largest_slope(depth):
        return 0.0
    if depth == 1:
        return float(slope**-0.5 - 1)
    # The derivative is slope - M x^(M-1)/(x^M + 1)^2. Its last zero is the minimum; it lies behind
    # the peak of the second term, and falls from there on.
    low = ((depth - 1) / (depth + 1)) ** (1 / depth)
    high = max(2.0, 2 * low)
    while depth * high ** (depth - 1) / (high**depth + 1) ** 2 > slope:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if depth * middle ** (depth - 1) / (middle**depth + 1) ** 2 > slope:
            low = middle
        else:
            high = middle
    return float((low + high) / 2)


@measure(
    name="gof_distance",
    title="Distance to the general orthogonal frame",
    symbol="d(GOF)",
    formula="|A/|A|_F - D/|D|_F|_F with the diagonal D that class counts and weight decays "
    "predict; A is the Gram matrix of the class means, uncentred (key `of` = means), of the "
    "classifier's rows (`rows`), or the mean logits W H without bias (`logits`).",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Dang et al. 2023 (arXiv 2301.00437)",
    bibtex=sources.DANG_2023,
    pitfalls=(
        "Predicted for the mean squared error without bias; cross-entropy collapses to others.",
        "Weight decays are those of |WH - Y|^2/(2N) + lambda_W/2 |W|^2 + lambda_H/2 |H|^2; a decay "
        "on all weights of a network is none on its features.",
    ),
    section="collapse",
)
def gof_distance(found: ArrayLike, diagonal: ArrayLike) -> float:
    """How far a matrix is from a diagonal one, whatever their sizes.

    Args:
        found: Gram matrix, or mean logits with classes as rows and columns (C, C).
        diagonal: What is predicted (C,); see `Frame`.

    Returns:
        From 0 to 2.

    Raises:
        Undefined: One of them is zero.
    """
    matrix, predicted = np.asarray(found, dtype=np.float64), np.diag(np.asarray(diagonal))
    sizes = float(np.linalg.norm(matrix)), float(np.linalg.norm(predicted))
    if not all(sizes):
        raise Undefined("every class collapses to zero" if sizes[0] else "every vector is zero")
    return float(np.linalg.norm(matrix / sizes[0] - predicted / sizes[1]))
