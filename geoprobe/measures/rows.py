"""A matrix whose rows are features, and the products of its rows that measures are made of.

Matrices are read in blocks of rows and summed in float64, so that beside one there is room for an
m x m (or, of fewer rows than dimensions, n x n) Gram matrix alone. What is no NumPy array, such as
weights of half precision, need only have a shape and give its rows by a slice; what lies on an
accelerator may take the products there (`Products`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from geoprobe.errors import UsageError
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

BLOCK_NUMBERS = 2**21
"""Numbers of a matrix that are held in float64 at a time: 16 MiB."""


class Rows(Protocol):
    """A matrix (n, m) that gives its rows, of any float type, by a slice."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Rows (k, m) as an array."""
        ...


Matrix: TypeAlias = "ArrayLike | Rows"


class Gram(NamedTuple):
    """A Gram matrix of the side that is smaller.

    Attributes:
        matrix: W^T W (m, m), or W W^T (n, n) where `of_rows`.
        of_rows: Whether it is that of the rows.
        rows: Rows that are not zero.
        width: Dimensions m.
        solve: Gives its eigenvalues where it lies, in any order; None leaves that to NumPy.
    """

    matrix: Array
    of_rows: bool
    rows: int
    width: int
    solve: Callable[[], Array] | None = None


class Products(Rows, Protocol):
    """Rows that multiply themselves, in float64.

    Every method raises `Undefined` where the matrix holds a NaN or an infinity.
    """

    def norms(self) -> Array:
        """Euclidean norm of each row (n,)."""
        ...

    def gram(self, *, unit: bool) -> Gram:
        """The Gram matrix of the smaller side; of unit rows where `unit`, zero rows staying so."""
        ...

    def forms(self, matrix: Array) -> Array:
        """u^T S u of each unit row u (n,), for a symmetric S (m, m); 0 of a zero row."""
        ...

    def closest(self) -> tuple[float, int, int]:
        """The cosine of two different rows that is largest in size, and the two in order."""
        ...

    def cosines(self, other: Any) -> Array:
        """Cosine of each row with the same row of another matrix of this kind; 0 of a zero row."""
        ...


class Blocks:
    """Products of any rows, block by block, on the processor.

    Args:
        rows: The rows (n, m).
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.shape = tuple(rows.shape)
        self._norms: Array | None = None

    def __getitem__(self, rows: slice) -> Any:
        return self.rows[rows]

    def norms(self) -> Array:
        """Euclidean norm of each row (n,)."""
        if self._norms is None:
            found = np.empty(self.shape[0])
            for at, block in blocks(self):
                found[at] = norms_of(block)
            self._norms = found
        return self._norms

    def gram(self, *, unit: bool) -> Gram:
        """The Gram matrix of the smaller side."""
        (n, m), norms = self.shape, self.norms()
        of_rows = n < m
        found = np.zeros((n, n) if of_rows else (m, m))
        for at, block in blocks(self):
            block = units_of(block, norms[at]) if unit else block
            if not of_rows:
                found += block.T @ block
                continue
            for to, other in blocks(self):
                if to.start < at.start:
                    continue
                other = units_of(other, norms[to]) if unit else other
                found[at, to] = block @ other.T
                found[to, at] = found[at, to].T
        return Gram(found, of_rows, int(np.count_nonzero(norms)), m)

    def forms(self, matrix: Array) -> Array:
        """u^T S u of each unit row u."""
        norms, found = self.norms(), np.empty(self.shape[0])
        for at, block in blocks(self):
            units = units_of(block, norms[at])
            found[at] = ((units @ matrix) * units).sum(1)
        return found

    def cosines(self, other: Blocks | Products) -> Array:
        """Cosine of each row with the same row of another matrix; 0 of a zero row."""
        found = np.empty(self.shape[0])
        for (at, a), (_, b) in zip(blocks(self), blocks(other), strict=True):
            units = units_of(a, self.norms()[at]), units_of(b, other.norms()[at])
            found[at] = np.einsum("ij,ij->i", *units)
        return found


def as_rows(rows: Matrix) -> Blocks | Products:
    """A matrix as what gives its rows and their products.

    Raises:
        UsageError: It has not two dimensions.
        Undefined: It is empty.
    """
    found: Any = rows if hasattr(rows, "shape") else np.asarray(rows, dtype=np.float64)
    if len(found.shape) != 2:
        raise UsageError(
            f"The matrix has shape {tuple(found.shape)}, but superposition is measured on rows of "
            "features: give two dimensions (features, dimensions)."
        )
    if 0 in found.shape:
        raise Undefined(f"the matrix has shape {tuple(found.shape)}: it is empty")
    known: Blocks | Products = found if hasattr(found, "gram") else Blocks(found)
    return known


def blocks(rows: Rows) -> Iterator[tuple[slice, Array]]:
    """The rows block by block, in float64 (k, m).

    Raises:
        Undefined: There is a NaN or an infinity.
    """
    n, m = rows.shape
    step = max(1, BLOCK_NUMBERS // m)
    for start in range(0, n, step):
        at = slice(start, min(start + step, n))
        block = np.asarray(rows[at], dtype=np.float64)
        if not np.isfinite(block).all():
            raise not_finite()
        yield at, block


def not_finite() -> Undefined:
    """Why a matrix has no values."""
    return Undefined("the matrix holds a NaN or an infinity")


def row_norms(rows: Matrix) -> Array:
    """Euclidean norm of each row (n,), in the unit of the matrix."""
    return as_rows(rows).norms()


def gram(rows: Matrix, *, unit: bool = False) -> Gram:
    """The Gram matrix of the smaller side, in float64.

    Args:
        rows: Shape (n, m).
        unit: Whether rows are scaled to norm 1; zero rows stay zero.

    Raises:
        Undefined: There is a NaN or an infinity.
    """
    return as_rows(rows).gram(unit=unit)


def norms_of(block: Array) -> Array:
    """Norms of rows, however large or small they are."""
    largest = np.abs(block).max(1)
    safe = np.where(largest > 0, largest, 1.0)[:, None]
    return np.asarray(np.sqrt(((block / safe) ** 2).sum(1)) * largest)


def units_of(block: Array, norms: Array) -> Array:
    """Rows scaled to norm 1; zero rows stay zero."""
    return np.asarray(block / np.where(norms > 0, norms, 1.0)[:, None])
