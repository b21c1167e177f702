"""Eigenvalues: of features, of a matrix, the largest alone; and what counts as zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
else:
    np = Lazy("numpy")

EPS = 2.0**-52
"""Relative spacing of float64."""


def as_matrix(features: Any) -> Array:
    """Features as a float64 matrix.

    Args:
        features: Shape (n, d): an array, nested lists, or a torch tensor on any device.

    Returns:
        Shape (n, d), float64; a copy or a view.

    Raises:
        UsageError: The features are not two-dimensional.
        Undefined: There are fewer than 2 rows, no columns, or a NaN or an infinity.
    """
    if hasattr(features, "detach"):  # a torch tensor, known by its methods: no import of torch
        features = features.detach().cpu().double().numpy()
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2:
        raise UsageError(
            f"Features have shape {matrix.shape}, but a measure needs two dimensions: "
            "reshape them to (samples, dimensions)."
        )
    n, d = matrix.shape
    if n < 2 or d < 1:
        raise Undefined(f"the features have shape ({n}, {d}); at least 2 rows and 1 column needed")
    if not np.isfinite(matrix).all():
        bad = int(np.count_nonzero(~np.isfinite(matrix)))
        raise Undefined(f"{bad} of {matrix.size} feature values are NaN or infinite")
    return matrix


def spectrum(features: Any, *, centre: bool = True) -> Array:
    """Eigenvalues of the covariance of features, divided by n (ddof 0).

    The smaller of the two Gram matrices is formed, in float64, around the first row and then the
    mean, so that neither a large offset nor constant columns cost digits.

    Args:
        features: Shape (n, d), n samples in rows; an array or a torch tensor.
        centre: False gives the eigenvalues of the uncentred second moment X^T X / n.

    Returns:
        Shape (min(n, d),), descending, in the squared unit of the features. All zero for
        constant features. When n <= d the last centred one is zero, as n points span n - 1
        dimensions.

    Raises:
        UsageError: The features are not two-dimensional.
        Undefined: There are fewer than 2 rows, or a NaN or an infinity.
    """
    matrix = as_matrix(features)
    n, d = matrix.shape
    if centre:
        matrix = matrix - matrix[0]
        matrix -= matrix.mean(axis=0)
    gram = matrix @ matrix.T if n < d else matrix.T @ matrix
    return eigenvalues(gram / n)


def eigenvalues(matrix: Any, solve: Callable[[], Array] | None = None) -> Array:
    """Eigenvalues of a symmetric positive semidefinite matrix.

    NumPy's solver is used rather than SciPy's: equally fast on one matrix, and it lets go of the
    interpreter lock, so that many matrices can be solved in threads.

    Args:
        matrix: Shape (d, d). Only the lower triangle is read.
        solve: Gives the same eigenvalues, in any order, by another solver.

    Returns:
        Shape (d,), descending. Negative ones within rounding of zero are given as 0.

    Raises:
        UsageError: The matrix is not square.
        Undefined: It holds a NaN or an infinity, or is not positive semidefinite.
    """
    square = _square(matrix)
    solved = np.linalg.eigvalsh(square, UPLO="L") if solve is None else solve()
    values = np.sort(np.asarray(solved, dtype=np.float64))[::-1]
    allowed = 64 * len(values) * EPS * float(np.abs(values).max())
    if values[-1] < -allowed:
        raise Undefined(
            f"the matrix has the eigenvalue {values[-1]:.3g} beside a largest one of "
            f"{values[0]:.3g}: it is not a covariance"
        )
    return np.maximum(values, 0.0)


def top_eigenvalue(matrix: Any) -> float:
    """The largest eigenvalue of a symmetric positive semidefinite matrix.

    Lanczos with full reorthogonalisation from a fixed start vector, so the same matrix always
    gives the same bits; small matrices and those that do not converge are solved whole.

    Args:
        matrix: Shape (d, d), both triangles filled.

    Returns:
        The eigenvalue, to a relative accuracy of about 1e-10 or better.

    Raises:
        UsageError: The matrix is not square.
        Undefined: It holds a NaN or an infinity, or is not positive semidefinite.
    """
    square = _square(matrix)
    d = len(square)
    if d <= 64:
        return float(eigenvalues(square)[0])
    steps = min(d, 160)
    vectors = np.empty((steps, d))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    start = np.random.default_rng(0).standard_normal(d)
    vectors[0] = start / np.linalg.norm(start)
    for step in range(steps):
        image = square @ vectors[step]
        diagonal[step] = vectors[step] @ image
        known = vectors[: step + 1]
        for _ in range(2):  # twice is enough for orthogonality to rounding (Parlett)
            image -= known.T @ (known @ image)
        beside[step] = np.linalg.norm(image)
        exhausted = beside[step] <= EPS * d * abs(diagonal).max()
        if exhausted or step % 8 == 7 or step == steps - 1:
            size = step + 1
            tridiagonal = np.diag(diagonal[:size]) + np.diag(beside[: size - 1], -1)
            ritz, coordinates = np.linalg.eigh(tridiagonal, UPLO="L")
            residual = beside[step] * abs(coordinates[-1, -1])
            if exhausted or residual <= 1e-10 * ritz[-1]:
                return max(float(ritz[-1]), 0.0)
        if step + 1 < steps:
            vectors[step + 1] = image / beside[step]
    return float(eigenvalues(square)[0])


def numerical_rank(eigenvalues: Any) -> int:
    """How many eigenvalues are above rounding: larger than k * 2^-52 times the largest.

    Args:
        eigenvalues: Shape (k,).

    Returns:
        The count, 0 for an all-zero spectrum.
    """
    values = descending(eigenvalues)
    return int(np.count_nonzero(values > len(values) * EPS * values[0]))


def descending(eigenvalues: Any) -> Array:
    """Eigenvalues as a sorted float64 vector, checked to be finite and non-negative."""
    values: Array = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise UsageError(f"Eigenvalues have shape {values.shape}, but a spectrum is one vector.")
    if not np.isfinite(values).all():
        raise Undefined("the spectrum holds a NaN or an infinity")
    values = np.asarray(np.sort(values)[::-1], dtype=np.float64)
    if values[-1] < 0.0:
        raise Undefined(f"the spectrum holds the negative eigenvalue {values[-1]:.3g}")
    return values


def scaled(eigenvalues: Any) -> Array:
    """The spectrum, descending, in units of its largest eigenvalue."""
    values = descending(eigenvalues)
    if values[0] == 0.0:
        raise Undefined("all eigenvalues are zero: the features are constant")
    relative: Array = values / values[0]
    return relative


def no_convention(name: str, convention: str, known: tuple[str, ...]) -> UsageError:
    """The error for a convention that a measure does not have."""
    return UsageError(f"{name} has no convention {convention!r}. Known: {', '.join(known)}.")


def _square(matrix: Any) -> Array:
    """The matrix as float64, checked to be square and finite."""
    square = np.asarray(matrix, dtype=np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1] or not len(square):
        raise UsageError(f"The matrix has shape {square.shape}, but eigenvalues need (d, d).")
    if not np.isfinite(square).all():
        raise Undefined("the second moments hold a NaN or an infinity")
    return square
