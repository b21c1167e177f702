"""Spectra: eigenvalues of covariances, and the measures of their shape (section 1 of the method).

Every measure takes eigenvalues of shape (k,), non-negative and in any order, in the squared unit
of the features, and is unchanged when all of them are multiplied by one positive number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError
from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.eigen import (
    EPS,
    eigenvalues,
    no_convention,
    numerical_rank,
    scaled,
    spectrum,
    top_eigenvalue,
)
from geoprobe.measures.estimate import Undefined, bias_corrected
from geoprobe.measures.powerlaw import AlphaFit, alpha, alpha_r2, alpha_r2_13_100
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
else:
    np = Lazy("numpy")

__all__ = [
    "AlphaFit",
    "alpha",
    "alpha_r2",
    "alpha_r2_13_100",
    "eigenvalues",
    "isoscore",
    "matrix_entropy",
    "nesum",
    "numerical_rank",
    "participation_ratio",
    "participation_ratio_corrected",
    "rankme",
    "rankme_corrected",
    "rankme_headless",
    "spectrum",
    "stable_rank",
    "top1_share",
    "top_eigenvalue",
]

SMOOTHING = 1e-7
"""What the published RankMe codes add to every share; the shares are not renormalised after."""
KEPT = 2048
"""How many eigenvalues the published codes keep at most."""


@measure(
    name="rankme",
    title="RankMe (effective rank)",
    symbol="RankMe",
    formula=(
        "exp(-sum_k p_k ln p_k), the exponential of the entropy of the spectrum, with 0 ln 0 = 0. "
        "p_k = lambda_k / sum(lambda) over the eigenvalues of the centred covariance (`exact`)."
    ),
    unit="dimensions",
    direction="either",
    conventions={
        "exact": "centred covariance, all eigenvalues, nothing added (Roy and Vetterli's effective "
        "rank on eigenvalues)",
        "li2025": "centred; the min(n, d, 2048) largest eigenvalues; p = lambda/sum + 1e-7, not "
        "renormalised",
        "garrido2023": "uncentred; singular values: p = sigma/sum(sigma) + 1e-7 over min(n, d) of "
        "them, not renormalised",
        "reptrix0.1": "as li2025 (reptrix 0.1.0 computes in the dtype it is given, float32 as a "
        "rule; here it is float64)",
    },
    source="Roy and Vetterli 2007; Garrido et al. 2023 (arXiv 2210.02885); Li et al. 2025 "
    "(arXiv 2509.23024), formulas read in the authors' code",
    bibtex="\n\n".join((sources.GARRIDO_2023, sources.ROY_VETTERLI_2007, sources.LI_2025)),
    pitfalls=(
        "Biased low with few samples: for eigenvalues i^-0.7 in 2048 dimensions the truth is 1035, "
        "and 512 samples give 333. Look at n/d; below 5 there is a warning.",
        "A few massive activations collapse it: one dimension x1000 on 0.1% of rows took 178 to "
        "1.09. Look at top1_share and rankme_headless beside it, and at --drop-sinks.",
        "The site is part of the number: before and after the final norm can differ 50-fold.",
        "Conventions differ: on singular values (`garrido2023`) a power law of exponent a gives "
        "what eigenvalues give at a/2.",
        "Bootstrap percentiles are invalid, as the bootstrap mean drops too.",
    ),
)
def rankme(eigenvalues: Any, convention: str = "exact", *, n: int | None = None) -> float:
    """The effective rank: the exponential of the entropy of a spectrum.

    Args:
        eigenvalues: Shape (k,). Those of the centred covariance; for `garrido2023` those of the
            uncentred second moment, whose square roots are the singular values up to a factor
            that cancels.
        convention: `exact`, `li2025`, `garrido2023` or `reptrix0.1`.
        n: Number of samples. All but `exact` count min(n, d) eigenvalues, zeros included, so
            give n when n < k; an array of length min(n, d) needs none.

    Returns:
        The effective rank, from 1 to k (a published convention can exceed k a little).

    Raises:
        UsageError: There is no such convention.
        Undefined: All eigenvalues are zero.
    """
    values = scaled(eigenvalues)
    if convention == "exact":
        return math.exp(_entropy(values / values.sum()))
    known = ("exact", "li2025", "garrido2023", "reptrix0.1")
    if convention not in known:
        raise no_convention("rankme", convention, known)
    if n is not None:
        values = values[:n]
    values = np.sqrt(values) if convention == "garrido2023" else values[:KEPT]
    shares = values / values.sum() + SMOOTHING
    return math.exp(-float(shares @ np.log(shares)))


@measure(
    name="rankme_corrected",
    title="RankMe, corrected for finite samples",
    symbol="RankMe_c",
    formula="2 * RankMe(n) - RankMe(n/2), the half being the mean over the two halves of the "
    "jackknife groups (even and odd): removes a bias that falls as 1/n.",
    unit="dimensions",
    direction="either",
    conventions={
        name: f"RankMe under {name}" for name in ("exact", "li2025", "garrido2023", "reptrix0.1")
    },
    source="Richardson extrapolation in 1/n of RankMe (Garrido et al. 2023)",
    bibtex=sources.GARRIDO_2023,
    pitfalls=(
        "Removes most of the bias, not all: where n is below a few times d the bias does not fall "
        "as 1/n yet, and the truth is higher still.",
        "Noisier than RankMe, and it may exceed the number of dimensions.",
    ),
)
def rankme_corrected(full: float, halves: Sequence[float]) -> float:
    """RankMe with its leading finite-sample bias removed.

    Args:
        full: RankMe on all n rows.
        halves: RankMe on each half of the rows.

    Returns:
        2 * full - mean(halves), in dimensions.
    """
    return bias_corrected(full, math.fsum(halves) / len(halves))


@measure(
    name="rankme_headless",
    title="RankMe without the head",
    symbol="RankMe_-k",
    formula="RankMe (`exact`) of the spectrum after its k largest eigenvalues are dropped and the "
    "rest renormalised; k = 10 unless said.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="RankMe (Garrido et al. 2023) on the tail of the spectrum",
    bibtex=sources.GARRIDO_2023,
    pitfalls=(
        "Steady where plain RankMe is driven by a few massive directions, and blind to those: "
        "read the two together.",
        "Undefined where the spectrum has k or fewer eigenvalues above rounding.",
    ),
)
def rankme_headless(eigenvalues: Any, k: int = 10) -> float:
    """RankMe of the spectrum without its k largest eigenvalues.

    Args:
        eigenvalues: Shape (m,), of the centred covariance.
        k: How many to drop, at least 0.

    Returns:
        The effective rank of the rest, from 1 to m - k.

    Raises:
        UsageError: k is negative.
        Undefined: Nothing above rounding is left.
    """
    if k < 0:
        raise UsageError(f"k is {k}, but it counts dropped directions: give 0 or more.")
    values = scaled(eigenvalues)
    rank = numerical_rank(values)
    if rank <= k:
        raise Undefined(f"the spectrum has {rank} eigenvalues above rounding and {k} are dropped")
    tail = values[k:]
    return math.exp(_entropy(tail / tail.sum()))


@measure(
    name="participation_ratio",
    title="Participation ratio",
    symbol="PR",
    formula="(sum lambda)^2 / sum lambda^2 over the eigenvalues of the centred covariance.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Gao et al. 2017",
    bibtex=sources.GAO_2017,
    pitfalls=(
        "Biased low by finite samples, about 1/PR + 1/n: see participation_ratio_corrected.",
        "Ruled by the largest eigenvalues: a heavy tail hardly moves it.",
    ),
)
def participation_ratio(eigenvalues: Any) -> float:
    """(sum lambda)^2 / sum lambda^2.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.

    Returns:
        The number of dimensions that participate, from 1 to k.

    Raises:
        Undefined: All eigenvalues are zero.
    """
    values = scaled(eigenvalues)
    return float(values.sum() ** 2 / (values @ values))


@measure(
    name="participation_ratio_corrected",
    title="Participation ratio, corrected for finite samples",
    symbol="PR_c",
    formula="1 / (1/PR - 1/n), with PR the plain participation ratio on n rows.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Chun et al. 2026 (arXiv 2509.26560), the leading correction for Gaussian rows; the "
    "package `dimensionality` has the exact row estimator",
    bibtex="\n\n".join((sources.CHUN_2026, sources.GAO_2017)),
    pitfalls=(
        "Exact to leading order for independent Gaussian rows; tokens of one sequence are not "
        "independent, so n overstates the sample.",
        "Undefined where PR reaches n, and unreliable close to it.",
    ),
)
def participation_ratio_corrected(eigenvalues: Any, n: int) -> float:
    """The participation ratio with the bias of n samples taken out: 1/(1/PR - 1/n).

    Args:
        eigenvalues: Shape (k,), of the centred covariance of n rows.
        n: Number of rows.

    Returns:
        The corrected number of dimensions, larger than PR; it may exceed k.

    Raises:
        Undefined: All eigenvalues are zero, or PR is not below n.
    """
    plain = participation_ratio(eigenvalues)
    inverse = 1.0 / plain - 1.0 / n
    if inverse <= 4 * EPS / plain:
        raise Undefined(f"the participation ratio {plain:.4g} is not below the {n} samples")
    return 1.0 / inverse


@measure(
    name="nesum",
    title="NESum (normalised eigenvalue sum)",
    symbol="NESum",
    formula="sum lambda / lambda_1 over the eigenvalues of the centred covariance.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="He and Ozay 2022",
    bibtex=sources.HE_OZAY_2022,
    pitfalls=("The reciprocal of top1_share; a single massive direction sets it.",),
)
def nesum(eigenvalues: Any) -> float:
    """Sum lambda / lambda_1.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.

    Returns:
        The sum in units of the largest, from 1 to k.

    Raises:
        Undefined: All eigenvalues are zero.
    """
    return float(scaled(eigenvalues).sum())


@measure(
    name="top1_share",
    title="Share of the top direction",
    symbol="λ₁/Σλ",
    formula="lambda_1 / sum lambda over the eigenvalues of the centred covariance.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="the share of variance of the first principal component",
    pitfalls=(
        "Close to 1 it says that one direction, often a massive activation of a few tokens, "
        "carries the covariance and RankMe with it.",
    ),
)
def top1_share(eigenvalues: Any) -> float:
    """lambda_1 / sum lambda.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.

    Returns:
        The share of variance along the first principal axis, from 1/k to 1.

    Raises:
        Undefined: All eigenvalues are zero.
    """
    return 1.0 / nesum(eigenvalues)


@measure(
    name="stable_rank",
    title="Stable rank",
    symbol="sr",
    formula="|X|_F^2 / |X|_2^2 = trace / largest eigenvalue of the uncentred second moment.",
    unit="dimensions",
    direction="either",
    conventions=ONLY_EXACT,
    source="Rudelson and Vershynin 2007",
    bibtex=sources.RUDELSON_VERSHYNIN_2007,
    pitfalls=("Uncentred: a mean far from zero pulls it to 1. nesum is its centred sibling.",),
)
def stable_rank(trace: float, top: float) -> float:
    """Trace / top of the uncentred second moment.

    Args:
        trace: Its trace: the mean squared norm of the rows.
        top: Its largest eigenvalue (see `top_eigenvalue`), in the same unit.

    Returns:
        The stable rank, at least 1.

    Raises:
        Undefined: All features are zero, or a number is not finite.
    """
    if not (math.isfinite(trace) and math.isfinite(top)):
        raise Undefined(f"the trace is {trace} and the largest eigenvalue {top}")
    if top <= 0.0:
        raise Undefined("the largest eigenvalue is zero: all features are zero")
    return max(trace / top, 1.0)


@measure(
    name="isoscore",
    title="IsoScore",
    symbol="ι",
    formula="(PR - 1)/(d - 1), with PR the participation ratio and d the number of dimensions: "
    "algebraically the IsoScore of Rudman et al.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Rudman et al. 2022; the identity is exact",
    bibtex=sources.RUDMAN_2022,
    pitfalls=(
        "Biased low by few samples, as PR is: with n rows it cannot exceed (n - 2)/(d - 1).",
        "Not comparable between widths without a thought: 1/d is its grain.",
    ),
)
def isoscore(eigenvalues: Any, d: int) -> float:
    """(PR - 1)/(d - 1).

    Args:
        eigenvalues: Shape (k,), of the centred covariance.
        d: Number of dimensions of the features (k may be smaller, where n < d).

    Returns:
        From 0 (one direction) to 1 (isotropic).

    Raises:
        Undefined: All eigenvalues are zero, or d is 1.
    """
    ratio = participation_ratio(eigenvalues)
    if d < 2:
        raise Undefined("isotropy has no meaning in one dimension")
    return (ratio - 1.0) / (d - 1)


@measure(
    name="matrix_entropy",
    title="Matrix-based entropy (normalised)",
    symbol="S₁",
    formula="rows scaled to unit length; -sum p ln p / ln min(n, d), with p the eigenvalues of "
    "their uncentred second moment (equal to those of the Gram matrix over n), which sum to 1.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Skean et al. 2025 (arXiv 2502.02013), order alpha = 1, over all rows",
    bibtex=sources.SKEAN_2025,
    pitfalls=(
        "Never clamp negative Gram entries: that breaks positive semidefiniteness.",
        "Uncentred: a common mean direction lowers it.",
        "The authors take it per prompt and average; this one is over all rows of the corpus.",
    ),
)
def matrix_entropy(eigenvalues: Any, n: int, d: int) -> float:
    """The von Neumann entropy of unit rows over its largest possible value.

    Args:
        eigenvalues: Shape (k,), of the uncentred second moment of rows scaled to unit length.
        n: Number of rows.
        d: Number of dimensions.

    Returns:
        From 0 (all rows on one line) to 1 (evenly spread).

    Raises:
        Undefined: All eigenvalues are zero, or min(n, d) is below 2.
    """
    values = scaled(eigenvalues)
    if min(n, d) < 2:
        raise Undefined(f"{n} rows in {d} dimensions have no entropy to normalise by")
    return _entropy(values / values.sum()) / math.log(min(n, d))


def _entropy(shares: Array) -> float:
    """-sum p ln p, with 0 ln 0 = 0."""
    positive = shares[shares > 0.0]
    return max(-float(positive @ np.log(positive)), 0.0)
