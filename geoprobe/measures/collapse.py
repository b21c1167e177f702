"""NC1: how much features vary within their classes, against how far the classes are apart.

Section 2 of the method; shapes and centring are those of `class_means`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.class_means import SAME, centred_at_mean
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

_WELL = 1e-3
"""Smallest pivot over the largest, above which a square costs no more than six digits."""


@measure(
    name="nc1",
    title="NC1, within-class variability",
    symbol="NC1",
    formula="tr(Sigma_W pinv(Sigma_B)) / C, the pseudo-inverse at rank min(C - 1, d). Sigma_W = "
    "(1/N) sum (h - mu_c)(h - mu_c)^T; Sigma_B = (1/C) sum (mu_c - mu_G)(mu_c - mu_G)^T with the "
    "unweighted mean mu_G of class means.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Papyan, Han and Donoho 2020 (arXiv 2008.08186), with the division by C that its "
    "notebook leaves out",
    bibtex=sources.PAPYAN_2020,
    pitfalls=(
        "It grows with the samples of a class even where labels say nothing: look at the value on "
        "permuted labels beside it.",
        "Weak directions of the class means count as much as strong ones; nc1_quotient weighs "
        "them. Those in which features vary by rounding alone, as the one that a LayerNorm takes "
        "out, are left out.",
    ),
    section="collapse",
)
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
    centred = centred_at_mean(means)
    return _within_by_between(within, centred / math.sqrt(len(centred))) / len(centred)


@measure(
    name="separation",
    title="Separation fuzziness",
    symbol="D",
    formula="tr(Sigma_W pinv(Sigma_B)) with Sigma_B = sum (n_c/N)(mu_c - mu)(mu_c - mu)^T around "
    "the mean of all samples.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="He and Su 2023 (arXiv 2210.17020)",
    bibtex=sources.HE_SU_2023,
    pitfalls=("Not divided by C, so it compares only for the same classes.",),
    section="collapse",
)
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
    centred_at_mean(means)
    every = np.asarray(means, dtype=np.float64)
    shares = np.asarray(counts, dtype=np.float64)
    shares = shares / shares.sum()
    return _within_by_between(within, np.sqrt(shares)[:, None] * (every - shares @ every))


@measure(
    name="nc1_quotient",
    title="Quotient of traces",
    symbol="tr W / tr B",
    formula="tr Sigma_W / tr Sigma_B, without a pseudo-inverse; defined at every layer.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Tirer and Bruna 2022 (arXiv 2202.08087)",
    bibtex=sources.TIRER_BRUNA_2022,
    pitfalls=("Dominated by the directions of largest variance, such as massive activations.",),
    section="collapse",
)
def nc1_quotient(within_trace: float, means: ArrayLike) -> float:
    """Quotient of traces, tr Sigma_W / tr Sigma_B (Tirer and Bruna 2022, arXiv 2202.08087).

    Args:
        within_trace: Mean squared distance of a sample to its class mean.
        means: Class means (C, d).

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    centred = centred_at_mean(means)
    return float(within_trace / np.mean((centred**2).sum(1)))


def _within_by_between(within: ArrayLike, factor: Array) -> float:
    """tr(Sigma_W pinv(F^T F)) of a factor (C, d), at rank min(C - 1, d)."""
    rank = min(len(factor) - 1, factor.shape[1])
    if rank == factor.shape[1] and (found := _by_solving(within, factor)) is not None:
        return found
    _, values, vectors = np.linalg.svd(factor, full_matrices=False)
    if values[rank - 1] <= SAME * values[0]:
        raise Undefined(f"the class means do not span the {rank} dimensions that they could")
    along = vectors[:rank]
    scatter = ((along @ np.asarray(within, dtype=np.float64)) * along).sum(1)
    return float((scatter / values[:rank] ** 2).sum())


def _by_solving(within: ArrayLike, factor: Array) -> float | None:
    """The same where F^T F is well conditioned, which is ten times as fast; None where it is not.

    The pivots of a Cholesky factor bound the condition number from below, about its square root.
    """
    between = factor.T @ factor
    try:
        pivots = np.diagonal(np.linalg.cholesky(between))
    except np.linalg.LinAlgError:
        return None
    if pivots.min() <= _WELL * pivots.max():
        return None
    return float(np.trace(np.linalg.solve(between, np.asarray(within, dtype=np.float64))))
