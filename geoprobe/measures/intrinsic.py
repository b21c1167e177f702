"""Intrinsic dimension from the two nearest neighbours (TwoNN, Facco et al. 2017).

The search works in float32 and is proven right afterwards: every row keeps its nearest candidates
together with a radius inside which, given the rounding of float32, no other row can lie. Distances
of the candidates that decide are then taken exactly in float64. A row whose radius proves too
small (tight clusters far apart, near copies) is searched again in float64. Leaving a group of rows
out reuses the same candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from geoprobe.errors import UsageError
from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.eigen import as_matrix
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]
    Mask = npt.NDArray[np.bool_]
else:
    np = Lazy("numpy")

SAME = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Rows this close, relative to the mean of their norms, are one point, by the precision that they
were computed in. A float32 forward pass moves the features of one and the same text by some 5e-7 of
their norm between batch shapes; half precision moves them by about its own spacing. Rows of any
other kind are one point only where they are equal."""
KEPT_SHARE = 0.9
"""Share of the smallest ratios that the line is fitted on."""
FEWEST = 10
"""Fewer distinct rows than this leave the dimension undefined."""
NEAREST = 12
"""Candidates kept per row: two neighbours, and what is left when a group of rows is out."""
BLOCK = 512
"""Rows searched at a time; bounds the memory at BLOCK x n float32."""
PER_LANE = 16
"""Columns of a row of distances whose minimum is taken first."""
EPS32 = 2.0**-23


class TwoNN(NamedTuple):
    """The intrinsic dimension in its two forms.

    Attributes:
        fit: Slope of the line through the origin (`intrinsic_dim`).
        ml: Maximum likelihood form (`intrinsic_dim_ml`).
        n: Number of distinct rows.
        fit_replicates: Shape (G,), `fit` with group g left out, NaN where group g has no rows or
            the rest has no dimension; None without groups.
        ml_replicates: The same for `ml`.
    """

    fit: float
    ml: float
    n: int
    fit_replicates: Array | None
    ml_replicates: Array | None


def two_nn(
    features: Any, groups: Any = None, *, n_groups: int = 8, computed_in: str | None = None
) -> TwoNN:
    """Both forms of the TwoNN intrinsic dimension, and their delete-one-group replicates.

    Rows that are copies of an earlier one (see `SAME`) are dropped first. mu = r2/r1 is the ratio
    of the distances to the second and the first neighbour; the i-th smallest of N ratios has
    F = i/N. `fit` is the slope of -ln(1 - F) on ln mu through the origin over the floor(0.9 N)
    smallest; `ml` is (N - 1)/sum ln mu over all.

    Args:
        features: Shape (n, d). The time grows with n^2: draw 4,096 rows from more.
        groups: Shape (n,), integers from 0 to n_groups - 1: the group of each row. A point stays
            as long as one of its copies does.
        n_groups: Length of the replicates.
        computed_in: Precision that the features were computed in (`float32`), where that is not
            the precision that they are given in. See `SAME`.

    Returns:
        The two values, the number of distinct rows, and the replicates.

    Raises:
        UsageError: The shapes do not fit, or a group is out of range.
        Undefined: There are fewer than 10 distinct rows, or all ratios are 1.
    """
    given_in = str(getattr(features, "dtype", "")).removeprefix("torch.")
    same = SAME.get(computed_in or given_in, 0.0)
    rows = as_matrix(features)
    n = len(rows)
    # By a power of two: exact, and float32 cannot overflow.
    rows = np.ldexp(rows, -int(np.frexp(np.abs(rows).max())[1]))
    member = np.zeros((n, 0), dtype=bool) if groups is None else _members(groups, n, n_groups)
    rows, member = _without_copies(rows, member)
    if len(rows) < FEWEST:
        raise Undefined(f"{len(rows)} of {n} rows are distinct, and TwoNN needs {FEWEST}")
    candidates = _candidates(rows)
    kept, member = _without_near_copies(rows, member, candidates, same)
    others = member.sum(axis=1, keepdims=True) - member  # groups of a point, but for g
    present = np.column_stack([kept, kept[:, None] & (others > 0)])
    first, second = _two_nearest(rows, candidates, present)

    whole, *without = (
        _estimates(first[rows_in, c], second[rows_in, c]) for c, rows_in in enumerate(present.T)
    )
    if isinstance(whole, str):
        raise Undefined(whole)
    replicates = None
    if groups is not None:
        replicates = np.array(
            [
                (np.nan, np.nan) if isinstance(pair, str) or not member[:, g].any() else pair
                for g, pair in enumerate(without)
            ]
        )
    return TwoNN(
        fit=whole[0],
        ml=whole[1],
        n=int(kept.sum()),
        fit_replicates=None if replicates is None else replicates[:, 0],
        ml_replicates=None if replicates is None else replicates[:, 1],
    )


@measure(
    name="intrinsic_dim",
    title="Intrinsic dimension (TwoNN)",
    symbol="ID",
    formula=(
        "mu = r2/r1, the distances to the second and first neighbour of each row (copies dropped); "
        "the slope of -ln(1 - F) on ln mu through the origin over the lowest 90% of mu, where the "
        "i-th smallest of N has F = i/N."
    ),
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Facco et al. 2017",
    bibtex=sources.FACCO_2017,
    pitfalls=(
        "Taken on at most 4,096 rows; a high dimension is underestimated, as no sample is dense "
        "there.",
        "float32 rows closer than 5e-6 of their norm count as one (float16 2e-3, bfloat16 1.6e-2, "
        "float64 only equal ones): the same text in two batches differs by rounding, and such "
        "pairs would otherwise be neighbours.",
        "Local: noise at the scale of the nearest neighbours is measured, not the manifold.",
    ),
)
def intrinsic_dim(features: Any) -> float:
    """The slope form of TwoNN.

    Args:
        features: Shape (n, d).

    Returns:
        The intrinsic dimension.

    Raises:
        UsageError: The features are not two-dimensional.
        Undefined: As for `two_nn`.
    """
    return two_nn(features).fit


@measure(
    name="intrinsic_dim_ml",
    title="Intrinsic dimension (TwoNN, maximum likelihood)",
    symbol="ID_ML",
    formula="(N - 1) / sum ln mu over the N distinct rows, mu as for intrinsic_dim.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Facco et al. 2017, the unbiased maximum likelihood form",
    bibtex=sources.FACCO_2017,
    pitfalls=(
        "Uses all ratios: a few outlying ones weigh more than in intrinsic_dim. The two far apart "
        "mean that the ratios do not follow the model.",
    ),
)
def intrinsic_dim_ml(features: Any) -> float:
    """The maximum likelihood form of TwoNN.

    Args:
        features: Shape (n, d).

    Returns:
        The intrinsic dimension.

    Raises:
        UsageError: The features are not two-dimensional.
        Undefined: As for `two_nn`.
    """
    return two_nn(features).ml


class _Candidates(NamedTuple):
    """The nearest rows of every row, found in float32.

    Attributes:
        near: Shape (n, k), the candidates, nearest first.
        squared: Shape (n, k), their squared distances as float32 gave them.
        error: Shape (n,), what those may be wrong by.
        radius: Shape (n,), squared: every row truly closer than this is a candidate.
    """

    near: Indices
    squared: Array
    error: Array
    radius: Array


def _members(groups: Any, n: int, n_groups: int) -> Mask:
    """Which row is in which group, shape (n, n_groups)."""
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise UsageError(f"There are {n} rows, but groups of shape {labels.shape}: give one each.")
    if labels.min() < 0 or labels.max() >= n_groups:
        raise UsageError(
            f"Groups run from {labels.min()} to {labels.max()}: use 0..{n_groups - 1}."
        )
    return np.asarray(labels[:, None] == np.arange(n_groups))


def _without_copies(rows: Array, member: Mask) -> tuple[Array, Mask]:
    """Distinct rows in order of first appearance, each in every group that one of its copies is."""
    numbers = np.ascontiguousarray(rows + 0.0)  # -0.0 becomes 0.0: equal numbers, equal bytes
    raw = numbers.view(np.dtype((np.void, numbers.itemsize * numbers.shape[1]))).ravel()
    _, first, copy_of = np.unique(raw, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return rows, member
    merged = np.zeros((len(first), member.shape[1]), dtype=bool)
    np.logical_or.at(merged, copy_of, member)
    order = np.argsort(first)
    return rows[first[order]], merged[order]


def _candidates(rows: Array) -> _Candidates:
    """The nearest rows of every row, and how far they can be trusted."""
    n, d = rows.shape
    count = min(NEAREST, n - 1)
    centred = rows - rows.mean(axis=0)
    single = centred.astype(np.float32)
    squares = np.einsum("ij,ij->i", single, single, dtype=np.float64)
    half = (squares / 2).astype(np.float32)
    near = np.empty((n, count), dtype=np.intp)
    squared = np.empty((n, count))
    # Half the squared distance, less half of |x_i|^2; no row is near the columns that round n up.
    scores = np.full((min(BLOCK, n), -(-n // PER_LANE) * PER_LANE), np.inf, dtype=np.float32)
    for start in range(0, n, BLOCK):
        own = slice(start, min(start + BLOCK, n))
        score = scores[: own.stop - own.start]
        np.matmul(single[own], single.T, out=score[:, :n])
        np.subtract(half, score[:, :n], out=score[:, :n])
        score[np.arange(score.shape[0]), np.arange(own.start, own.stop)] = np.inf
        best = _smallest(score, count)
        value = np.take_along_axis(score, best, axis=1)
        order = np.argsort(value, axis=1)
        near[own] = np.take_along_axis(best, order, axis=1)
        squared[own] = squares[own, None] + 2.0 * np.take_along_axis(value, order, axis=1)
    np.maximum(squared, 0.0, out=squared)
    # A pair at true distance t has |x_j| <= |x_i| + t, and rounding in d-term float32 products
    # moves its squared distance by about sqrt(d) eps (|x_i| + |x_j|)^2 at most.
    reach = 2.0 * np.sqrt(squares) + np.sqrt(squared[:, -1])
    error = (np.sqrt(d) + 4.0) * EPS32 * reach**2
    radius = np.full(n, np.inf) if count == n - 1 else squared[:, -1] - error
    return _Candidates(near, squared, error, radius)


def _smallest(score: npt.NDArray[np.float32], count: int) -> Indices:
    """Columns of the `count` smallest values of each row, shape (rows, count), in no order.

    The columns fall into lanes of `PER_LANE`; the smallest values lie in the lanes with the
    smallest minima, so that only those need be searched.
    """
    lanes = score.shape[1] // PER_LANE
    if lanes <= 2 * count:
        return np.argpartition(score, count - 1, axis=1)[:, :count]
    least = score.reshape(len(score), PER_LANE, lanes).min(axis=1)
    lane = np.argpartition(least, count - 1, axis=1)[:, :count]
    columns = (lane[:, :, None] + lanes * np.arange(PER_LANE)).reshape(len(score), -1)
    among = np.take_along_axis(score, columns, axis=1)
    return np.take_along_axis(columns, np.argpartition(among, count - 1, axis=1)[:, :count], axis=1)


def _without_near_copies(
    rows: Array, member: Mask, candidates: _Candidates, radius: float
) -> tuple[Mask, Mask]:
    """Which rows are no near copy of an earlier kept one; their groups pass to that one.

    Only rows whose nearest candidate may be that close are compared, exactly enough in float64.
    """
    kept = np.ones(len(rows), dtype=bool)
    if radius == 0.0:
        return kept, member
    reach = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * radius
    # The other of a pair of copies has nearly the same norm; twice the reach covers both.
    suspects = np.flatnonzero(candidates.squared[:, 0] <= candidates.error + (2.0 * reach) ** 2)
    if not len(suspects):
        return kept, member
    close = rows[suspects] - rows[suspects].mean(axis=0)
    squares = np.einsum("ij,ij->i", close, close)
    same = np.empty((len(suspects), len(suspects)), dtype=bool)
    for start in range(0, len(suspects), BLOCK):
        own = slice(start, start + BLOCK)
        squared = squares[own, None] + squares - 2.0 * (close[own] @ close.T)
        same[own] = squared <= (0.5 * (reach[suspects[own], None] + reach[suspects])) ** 2
    member = member.copy()
    stays = np.ones(len(suspects), dtype=bool)
    for i, row in enumerate(suspects):
        if stays[i]:
            copies = np.flatnonzero(same[i] & stays)
            copies = copies[copies > i]
            stays[copies] = False
            member[row] |= member[suspects[copies]].any(axis=0)
    kept[suspects[~stays]] = False
    return kept, member


def _two_nearest(rows: Array, candidates: _Candidates, present: Mask) -> tuple[Array, Array]:
    """Squared distances to the two nearest rows, in float64, among the rows of each column.

    Args:
        rows: Shape (n, d).
        candidates: Of these rows.
        present: Shape (n, c): the rows that take part in column c.

    Returns:
        Two arrays of shape (n, c); meaningless for rows that take no part.
    """
    near, squared, error, radius = candidates
    usable = present[near]  # (n, k, c)
    wanted = np.zeros(near.shape, dtype=bool)
    for c in range(present.shape[1]):
        here = usable[:, :, c]
        rank = here.cumsum(axis=1)
        second = np.where(here & (rank == 2), squared, 0.0).sum(axis=1)
        second[rank[:, -1] < 2] = np.inf
        wanted |= here & (squared <= (second + 2.0 * error)[:, None]) & present[:, c, None]
    exact = np.full(near.shape, np.inf)
    i, k = np.nonzero(wanted)
    exact[i, k] = _squared_distances(rows, i, near[i, k])
    first, second = np.empty(present.shape), np.empty(present.shape)
    for c in range(present.shape[1]):
        nearest = np.where(usable[:, :, c], exact, np.inf)
        nearest.partition(1, axis=1)
        first[:, c], second[:, c] = nearest[:, 0], nearest[:, 1]
    doubtful = present & ~((second <= radius[:, None]) & np.isfinite(second))
    _search_again(rows, present, doubtful, first, second)
    return first, second


def _search_again(rows: Array, present: Mask, doubtful: Mask, first: Array, second: Array) -> None:
    """Fills in the doubtful entries of `first` and `second` by a full search in float64."""
    again = np.flatnonzero(doubtful.any(axis=1))
    if not len(again):
        return
    centred = rows - rows.mean(axis=0)
    squares = np.einsum("ij,ij->i", centred, centred)
    for start in range(0, len(again), BLOCK):
        block = again[start : start + BLOCK]
        score = squares - 2.0 * (centred[block] @ centred.T)
        score[np.arange(len(block)), block] = np.inf
        for c in np.flatnonzero(doubtful[block].any(axis=0)):
            mine = np.flatnonzero(doubtful[block, c])
            there = np.flatnonzero(present[:, c])
            if len(there) < 3:
                first[block[mine], c] = second[block[mine], c] = np.inf
                continue
            within = score[np.ix_(mine, there)]
            few = min(4, len(there) - 1)
            best = there[np.argpartition(within, few - 1, axis=1)[:, :few]]
            exact = _squared_distances(rows, np.repeat(block[mine], few), best.ravel())
            exact = np.sort(exact.reshape(best.shape), axis=1)
            first[block[mine], c], second[block[mine], c] = exact[:, 0], exact[:, 1]


def _squared_distances(rows: Array, i: Indices, j: Indices) -> Array:
    """|x_i - x_j|^2 of pairs, as sums of squared differences."""
    result = np.empty(len(i))
    step = max(1, 2**20 // rows.shape[1])  # 8 MB of differences at a time
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        difference = rows[i[part]]
        difference -= rows[j[part]]
        result[part] = np.einsum("ij,ij->i", difference, difference)
    return result


def _estimates(first: Array, second: Array) -> tuple[float, float] | str:
    """Slope and maximum likelihood form from squared distances, or why there are none."""
    count = len(first)
    if count < FEWEST:
        return f"{count} rows are distinct, and TwoNN needs {FEWEST}"
    log_mu = np.sort(0.5 * np.log(second / first))
    below = int(KEPT_SHARE * count)
    x = log_mu[:below]
    y = -np.log1p(-np.arange(1, below + 1) / count)
    if x[-1] <= 0.0:
        return "the first and second neighbours are equally far, as on a lattice"
    return float(x @ y) / float(x @ x), (count - 1) / float(log_mu.sum())
