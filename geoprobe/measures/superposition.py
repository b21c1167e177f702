"""Superposition in a matrix: how the features in its rows share its dimensions.

Section 4 of the method. Rows W_i are n features in m dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.eigen import eigenvalues, no_convention, numerical_rank
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure
from geoprobe.measures.rows import Gram, Matrix, as_rows, gram, row_norms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")


PLATEAUS: Mapping[str, float] = {
    "its own dimension": 1.0,
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "digon": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
    "not represented": 0.0,
}
"""Dimensionality of the features of a regular arrangement that has dimensions of its own. Features
of a square have 1/2 as well: it is two digons."""

TOLERANCE = 0.02
"""Features so near to a plateau are counted to it."""

CONVENTIONS = {
    "raw": "rows as they are: toy models, where a feature that is represented has norm 1",
    "unit_rows": "rows that are not zero, each scaled to norm 1: the rows over the dimensions; "
    "where the scale of a row means nothing",
}


@measure(
    name="dimensionality",
    title="Dimensions of a feature",
    symbol="D_i",
    formula="|W_i|^4 / sum_j (W_i . W_j)^2 of each row W_i of a matrix, its own included in the "
    "sum; 0 of a zero row. The reading is the mean over rows; each row's is kept beside it.",
    unit="dimensions per feature",
    direction="either",
    conventions=ONLY_EXACT,
    source="Elhage et al. 2022 (arXiv 2209.10652), feature dimensionality; the same as the "
    "capacity of Scherlis et al. 2022 (arXiv 2210.01892)",
    bibtex=f"{sources.ELHAGE_2022}\n\n{sources.SCHERLIS_2022}",
    pitfalls=(
        "Rows that say nothing have a value, too: independent Gaussian rows have about "
        "m/(m + n - 1), which stands beside it (key `rows` = gaussian).",
        "More rows than dimensions cannot have 1 each: the mean is at most rank/n.",
        "It depends on the rows' norms: a short row beside long ones along it has next to none.",
    ),
    section="superposition",
)
def dimensionality(rows: Matrix) -> Array:
    """The share of a dimension that each feature has to itself.

    D_i = |W_i|^4 / sum_j (W_i . W_j)^2 (Elhage et al. 2022, arXiv 2209.10652), where the sum is
    W_i^T (W^T W) W_i, so that no n x n product is needed. It equals the capacity of Scherlis et al.
    2022 (arXiv 2210.01892).

    Args:
        rows: Features W (n, m), one a row.

    Returns:
        Shape (n,), dimensions per feature, from 0 to 1. A zero row has 0: the feature is not
        represented.

    Raises:
        UsageError: The matrix has not two dimensions.
        Undefined: It is empty, or there is a NaN or an infinity.
    """
    given = as_rows(rows)
    size = given.gram(unit=False)
    total = float(np.trace(size.matrix))
    found = np.zeros(given.shape[0])
    if not total:
        return found
    # Relative to the whole, so that no fourth power is ever too large or too small.
    scaled = size.matrix / total
    if size.of_rows:
        own = np.diagonal(scaled)
        there = own > 0
        found[there] = own[there] ** 2 / (scaled[there] ** 2).sum(1)
    else:
        own, shared = given.norms() ** 2 / total, given.forms(scaled)
        np.divide(own, shared, out=found, where=shared > 0)
    return np.minimum(found, 1.0)  # rounding may go beyond


@measure(
    name="dimensionality_sum",
    title="Dimensions of all features",
    symbol="ΣD",
    formula="Sum over the rows of a matrix of |W_i|^4 / sum_j (W_i . W_j)^2.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Elhage et al. 2022 (arXiv 2209.10652); Scherlis et al. 2022 (arXiv 2210.01892), total "
    "capacity",
    bibtex=f"{sources.ELHAGE_2022}\n\n{sources.SCHERLIS_2022}",
    pitfalls=("At most the rank of the matrix, which stands beside it (matrix_rank).",),
    section="superposition",
)
def total_dimensionality(values: ArrayLike) -> float:
    """How many dimensions all features have together: at most the rank of the matrix.

    Args:
        values: The dimensionality of each feature (n,).
    """
    return float(np.asarray(values, dtype=np.float64).sum())


def plateau_share(values: ArrayLike, tolerance: float = TOLERANCE) -> dict[str, float]:
    """The share of features near each plateau; one that is near two counts to the nearer.

    Args:
        values: The dimensionality of each feature (n,).
        tolerance: How near, in dimensions.

    Returns:
        One share a name in `PLATEAUS`.
    """
    found = np.asarray(values, dtype=np.float64)
    distance = np.abs(found[:, None] - np.array(list(PLATEAUS.values())))
    nearest = distance.argmin(1)
    near = distance.min(1) <= tolerance
    return {
        name: float((near & (nearest == i)).sum() / max(1, len(found)))
        for i, name in enumerate(PLATEAUS)
    }


def plateau_surroundings(values: ArrayLike, tolerance: float = TOLERANCE) -> dict[str, float]:
    """The share near each plateau that a smooth distribution would have, by its surroundings.

    Features between one and two tolerances away, on the sides where no other plateau and no end is:
    a distribution that is merely broad has about so many near the plateau as well.

    Args:
        values: The dimensionality of each feature (n,).
        tolerance: How near, in dimensions.

    Returns:
        One share a name in `PLATEAUS`.
    """
    found = np.asarray(values, dtype=np.float64)
    expected = {}
    for name, plateau in PLATEAUS.items():
        others = [p for p in PLATEAUS.values() if p != plateau]
        shares = []
        for side in (-1, 1):
            middle = plateau + 1.5 * side * tolerance
            if 0 < middle < 1 and all(abs(middle - p) > tolerance for p in others):
                away = (found - plateau) * side
                beside = (away > tolerance) & (away <= 2 * tolerance)
                shares.append(beside.sum() / max(1, len(found)))
        sides = 2 if 0 < plateau < 1 else 1
        expected[name] = sides * float(np.mean(shares))
    return expected


@measure(
    name="interference",
    title="Interference of features",
    symbol="cos²",
    formula="Mean of the squared cosine over all pairs of different rows; zero rows left out.",
    unit="1",
    direction="down",
    conventions=ONLY_EXACT,
    source="Welch 1974; interference as in Elhage et al. 2022 (arXiv 2209.10652), of unit rows",
    bibtex=f"{sources.ELHAGE_2022}\n\n{sources.WELCH_1974}",
    pitfalls=(
        "More rows than dimensions cannot have less than welch_bound.",
        "Independent Gaussian rows have 1/m, which stands beside it (key `rows` = gaussian).",
        "A mean that the rows have in common makes it large, as it does every cosine.",
    ),
    section="superposition",
)
def interference(rows: Matrix | Gram) -> float:
    """Mean squared cosine of two different rows: (|U^T U|_F^2 - n) / (n (n - 1)).

    U are the rows, scaled to norm 1, that are not zero.

    Args:
        rows: Features (n, m), or the Gram matrix of their unit rows where it is known.

    Raises:
        UsageError: The matrix has not two dimensions.
        Undefined: There are fewer than two rows that are not zero, or a NaN or an infinity.
    """
    found = rows if isinstance(rows, Gram) else gram(rows, unit=True)
    n = found.rows
    if n < 2:
        raise Undefined("fewer than two rows are not zero")
    if found.of_rows:
        square = float((found.matrix**2).sum() - (np.diagonal(found.matrix) ** 2).sum())
    else:
        square = float((found.matrix**2).sum()) - n
    return max(0.0, square / (n * (n - 1)))


@measure(
    name="welch_bound",
    title="Floor of the interference",
    symbol="Welch",
    formula="(n - m)/(m (n - 1)) where the n rows that are not zero are more than the m "
    "dimensions, else 0; its square root is the floor of coherence.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Welch 1974",
    bibtex=sources.WELCH_1974,
    pitfalls=("It depends on the numbers of rows and dimensions alone.",),
    section="superposition",
)
def welch_bound(n: int, m: int) -> float:
    """What the interference of n unit vectors in m dimensions cannot go below (Welch 1974).

    Raises:
        Undefined: Fewer than two vectors, or no dimensions.
    """
    if n < 2 or m < 1:
        raise Undefined("fewer than two rows are not zero")
    return max(0.0, (n - m) / (m * (n - 1)))


@measure(
    name="matrix_rank",
    title="Rank of the matrix",
    symbol="rank",
    formula="Eigenvalues of the Gram matrix of the unit rows that are above rounding: larger than "
    "k 2^-52 times the largest of k.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe; rows are scaled to norm 1, which leaves the rank as it is",
    bibtex=sources.SCHERLIS_2022,
    pitfalls=(
        "Numerical: directions of less than about 1e-7 of the largest singular value are not "
        "counted.",
    ),
    section="superposition",
)
def matrix_rank(rows: Matrix | Gram) -> int:
    """The numerical rank of a matrix (n, m): at least the sum of the features' dimensionalities.

    Args:
        rows: Features (n, m), or the Gram matrix of their unit rows where it is known.

    Raises:
        UsageError: The matrix has not two dimensions.
        Undefined: It is empty, or there is a NaN or an infinity.
    """
    found = rows if isinstance(rows, Gram) else gram(rows, unit=True)
    return numerical_rank(eigenvalues(found.matrix, found.solve))


@measure(
    name="dimensions_per_feature",
    title="Dimensions per feature",
    symbol="D*",
    formula="m / |W|_F^2.",
    unit="dimensions per feature",
    direction="either",
    conventions=CONVENTIONS,
    source="Elhage et al. 2022 (arXiv 2209.10652)",
    bibtex=sources.ELHAGE_2022,
    pitfalls=(
        "|W|_F^2 counts features only where each that is represented has norm 1, as in toy models; "
        "elsewhere `raw` measures the scale of the weights, and `unit_rows` is m/n.",
    ),
    section="superposition",
)
def dimensions_per_feature(rows: Matrix, convention: str = "raw") -> float:
    """Dimensions over features, m / |W|_F^2 (Elhage et al. 2022, arXiv 2209.10652).

    Args:
        rows: Features W (n, m).
        convention: `raw` takes the rows as they are, `unit_rows` those that are not zero, each
            scaled to norm 1.

    Raises:
        UsageError: There is no such convention, or the matrix has not two dimensions.
        Undefined: Every row is zero, or there is a NaN or an infinity.
    """
    features = _features(rows, "dimensions_per_feature", convention)
    if not features:
        raise Undefined("every row is zero")
    return as_rows(rows).shape[1] / features


@measure(
    name="frobenius_psi",
    title="Features per dimension",
    symbol="ψ_F",
    formula="|W|_F^2 / m: the inverse of dimensions_per_feature.",
    unit="features per dimension",
    direction="either",
    conventions=CONVENTIONS,
    source="Elhage et al. 2022 (arXiv 2209.10652)",
    bibtex=sources.ELHAGE_2022,
    pitfalls=(
        "|W|_F^2 counts features only where each that is represented has norm 1, as in toy models; "
        "elsewhere `raw` measures the scale of the weights, and `unit_rows` is n/m.",
    ),
    section="superposition",
)
def frobenius_psi(rows: Matrix, convention: str = "raw") -> float:
    """Features over dimensions, |W|_F^2 / m.

    Args:
        rows: Features W (n, m).
        convention: As `dimensions_per_feature` has it.

    Raises:
        UsageError: There is no such convention, or the matrix has not two dimensions.
        Undefined: The matrix is empty, or there is a NaN or an infinity.
    """
    return _features(rows, "frobenius_psi", convention) / as_rows(rows).shape[1]


@measure(
    name="row_norm",
    title="Norm of the rows",
    symbol="|w|",
    formula="Mean over the rows of a matrix of their Euclidean norm; of mlp.in (gate, up) and "
    "mlp.out these are the input and the output weights of the neurons.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe",
    pitfalls=("What a norm in front of the matrix multiplies with is not folded in.",),
    section="superposition",
)
def row_norm(norms: ArrayLike) -> float:
    """Mean norm of the rows, in the unit of the matrix.

    Args:
        norms: The norm of each row (n,).
    """
    return float(np.asarray(norms, dtype=np.float64).mean())


def _features(rows: Matrix, name: str, convention: str) -> float:
    """|W|_F^2 of the rows as they are, or of unit rows."""
    if convention not in CONVENTIONS:
        raise no_convention(name, convention, tuple(CONVENTIONS))
    norms = row_norms(rows)
    return float((norms**2).sum() if convention == "raw" else np.count_nonzero(norms))
