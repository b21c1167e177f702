"""Coherence: the two rows of a matrix that are most nearly along each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure
from geoprobe.measures.rows import Blocks, Matrix, as_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

BLOCK = 2048
"""Rows whose products with as many others are held at a time."""

SAME = 1 - 1e-12
"""From this cosine on nothing closer is looked for: it can be 1 at most."""

_FEW = 4096
"""Pairs of a block that are looked at one by one; where there are more, all of the block are."""

_EXACT_NUMBERS = 2**20
"""Numbers of each side of pairs that are held in float64 at a time."""


class Closest(NamedTuple):
    """Two rows.

    Attributes:
        cosine: Cosine between them, signed.
        first: Index of the one.
        second: Index of the other, which is larger.
    """

    cosine: float
    first: int
    second: int


@measure(
    name="coherence",
    title="Coherence",
    symbol="max|cos|",
    formula="Largest |cosine| of two different rows; zero rows left out.",
    unit="1",
    direction="down",
    conventions=ONLY_EXACT,
    source="Welch 1974",
    bibtex=sources.WELCH_1974,
    pitfalls=(
        "One pair decides it: two rows that never moved from the same place, as those of unused "
        "tokens, give 1.",
        "At least the square root of welch_bound.",
    ),
    section="superposition",
)
def coherence(rows: Matrix, *, block: int = BLOCK) -> float:
    """The largest |cosine| of two different rows, exact to 1e-9.

    Args:
        rows: Features (n, m).
        block: Rows whose products with as many others are held at a time.

    Raises:
        UsageError: The matrix has not two dimensions.
        Undefined: There are fewer than two rows that are not zero, or a NaN or an infinity.
    """
    return abs(closest_pair(rows, block=block).cosine)


def closest_pair(rows: Matrix, *, block: int = BLOCK) -> Closest:
    """The two rows of the largest |cosine|; of several pairs any.

    On the processor products are taken in float32 over the upper triangle, and those that by its
    rounding may be the largest again in float64; on an accelerator all in float64. Where two rows
    are the same the search stops.

    Args:
        rows: Features (n, m).
        block: Rows whose products with as many others are held at a time.

    Raises:
        UsageError: The matrix has not two dimensions.
        Undefined: There are fewer than two rows that are not zero, or a NaN or an infinity.
    """
    given = as_rows(rows)
    n, m = given.shape
    norms = given.norms()
    if np.count_nonzero(norms) < 2:
        raise Undefined("fewer than two rows are not zero")
    if not isinstance(given, Blocks):
        return Closest(*given.closest())
    # Each of the two unit rows is rounded once, and each sum m times (Higham 2002, section 3.1).
    rounding = (m + 4) * 2.0**-24
    best = Closest(0.0, *(int(i) for i in np.flatnonzero(norms)[:2]))
    for i in range(0, n, block):
        first = _units(given, norms, slice(i, i + block))
        for j in range(i, n, block):
            second = first if i == j else _units(given, norms, slice(j, j + block))
            products = first @ second.T
            if i == j:
                products[np.diag_indices(len(products))] = 0
            best = _better(best, products, given, norms, (i, j), rounding)
            if abs(best.cosine) >= SAME:
                return best
    return best


def _units(rows: Blocks, norms: Array, at: slice) -> NDArray[np.float32]:
    block = np.asarray(rows[at])
    scale = np.where(norms[at] > 0, norms[at], 1.0)[:, None]
    # In float64 where float32 has no room for the norm itself.
    if block.dtype == np.float32 and scale.min() > 1e-15 and scale.max() < 1e15:
        scale = scale.astype(np.float32)
    return np.asarray(block / scale, dtype=np.float32)


def _better(
    best: Closest,
    products: NDArray[np.float32],
    rows: Blocks,
    norms: Array,
    corner: tuple[int, int],
    rounding: float,
) -> Closest:
    """The closest pair, that of one block considered."""
    np.abs(products, out=products)
    largest = float(products.max())
    if largest + rounding <= abs(best.cosine):
        return best
    near = products >= max(largest - 2 * rounding, abs(best.cosine) - rounding)
    if corner[0] == corner[1]:
        near[np.diag_indices(len(near))] = False
    if np.count_nonzero(near) > _FEW:
        return _of_block(best, rows, norms, corner, near.shape)
    some = np.argwhere(near) + corner
    at_once = max(1, _EXACT_NUMBERS // rows.shape[1])
    for start in range(0, len(some), at_once):
        first, second = some[start : start + at_once].T
        both = (_exact(rows, norms, at) for at in (first, second))
        cosines = np.einsum("ij,ij->i", *both)
        place = int(np.abs(cosines).argmax())
        best = _larger(best, cosines[place], first[place], second[place])
    return best


def _of_block(
    best: Closest, rows: Blocks, norms: Array, corner: tuple[int, int], shape: tuple[int, ...]
) -> Closest:
    """The same of a block with many pairs that are about as close."""
    step = max(1, _EXACT_NUMBERS // rows.shape[1])
    for i in range(corner[0], corner[0] + shape[0], step):
        first = np.arange(i, min(i + step, corner[0] + shape[0]))
        one = _exact(rows, norms, first)
        for j in range(corner[1], corner[1] + shape[1], step):
            second = np.arange(j, min(j + step, corner[1] + shape[1]))
            cosines = one @ _exact(rows, norms, second).T
            cosines[first[:, None] >= second] = 0
            place = np.unravel_index(int(np.abs(cosines).argmax()), cosines.shape)
            best = _larger(best, cosines[place], first[place[0]], second[place[1]])
    return best


def _exact(given: Blocks, norms: Array, index: NDArray[np.int64]) -> Array:
    """Unit rows of these indices in float64; zero rows stay zero."""
    rows = given.rows
    if isinstance(rows, np.ndarray):
        found = rows[index].astype(np.float64)
    elif len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        found = np.asarray(rows[int(index[0]) : int(index[-1]) + 1], dtype=np.float64)
    else:
        found = np.concatenate(
            [np.asarray(rows[i : i + 1], dtype=np.float64) for i in index.tolist()]
        )
    return np.asarray(found / np.where(norms[index] > 0, norms[index], 1.0)[:, None])


def _larger(best: Closest, cosine: float, first: int, second: int) -> Closest:
    if abs(cosine) <= abs(best.cosine):
        return best
    one, other = sorted((int(first), int(second)))
    return Closest(float(np.clip(cosine, -1.0, 1.0)), one, other)
