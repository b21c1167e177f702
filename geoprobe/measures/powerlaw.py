"""alpha-ReQ: the power law of a spectrum and how well it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.eigen import no_convention, numerical_rank, scaled
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import measure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
else:
    np = Lazy("numpy")

FIT_RANGES = {
    "exact": (12, 100),
    "li2025": (12, 100),
    "stringer": (11, 500),
    "reptrix0.1": (11, 100),
}
"""First and last rank (1-based, inclusive) of each alpha convention; `exact` may end earlier."""
FEWEST_RANKS = 20
"""Fewer fitted ranks than this leave the `exact` alpha undefined."""


class AlphaFit(NamedTuple):
    """A power law fitted to a spectrum: ln lambda_r = c - alpha ln r.

    Attributes:
        alpha: The decay exponent.
        r2: Unweighted coefficient of determination on the fitted ranks; None where the fitted
            eigenvalues are all equal.
        r2_13_100: The same on ranks 13..100; None where fewer than 100 eigenvalues are above
            rounding, or those are all equal.
        first: First fitted rank, 1-based.
        last: Last fitted rank, inclusive.
    """

    alpha: float
    r2: float | None
    r2_13_100: float | None
    first: int
    last: int


ALPHA_CONVENTIONS = {
    "exact": "ranks 12 to min(100, rank/2), undefined under 20 fitted ranks",
    "li2025": "ranks 12..100",
    "stringer": "ranks 11..500 (MATLAB, 1-based)",
    "reptrix0.1": "ranks 11..100 (0-based 10..99). reptrix 0.1.0's own fit_R2 is on ranks 12..500 "
    "(12 to count-10 below 512 eigenvalues) and its fit_R2_100 on ranks 12..100: other ranges than "
    "alpha_r2 and alpha_r2_13_100 here",
}
ALPHA_BIBTEX = "\n\n".join((sources.AGRAWAL_2022, sources.STRINGER_2019, sources.LI_2025))


@measure(
    name="alpha",
    title="alpha-ReQ (spectral decay)",
    symbol="α",
    formula=(
        "minus the slope of the weighted least squares line of ln lambda_r on ln r, weights 1/r, "
        "over ranks r (1-based, descending eigenvalues of the centred covariance) from 12 to "
        "min(100, rank/2), where rank counts the eigenvalues above rounding (`exact`)."
    ),
    unit="1",
    direction="either",
    conventions=ALPHA_CONVENTIONS,
    source="Stringer et al. 2019; Agrawal et al. 2022 (alpha-ReQ); Li et al. 2025 "
    "(arXiv 2509.23024), ranges read in the authors' code",
    bibtex=ALPHA_BIBTEX,
    pitfalls=(
        "A slope is printed for any spectrum, power law or not: read alpha_r2 beside it.",
        "The fitted ranks are part of the number: Gaussian noise gave 0.149 on 11..100 and 0.153 "
        "on 12..100.",
        "A published range never shrinks silently: with fewer eigenvalues above rounding than its "
        "last rank the value is undefined.",
        "Few samples bend the tail down and raise alpha.",
    ),
)
def alpha(eigenvalues: Any, convention: str = "exact") -> AlphaFit:
    """The power-law exponent of a spectrum, with its fit quality.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.
        convention: `exact`, `li2025`, `stringer` or `reptrix0.1`.

    Returns:
        The exponent, both R2 and the fitted ranks.

    Raises:
        UsageError: There is no such convention.
        Undefined: All eigenvalues are zero, or too few are above rounding for the range.
    """
    if convention not in FIT_RANGES:
        raise no_convention("alpha", convention, tuple(FIT_RANGES))
    values = scaled(eigenvalues)
    rank = numerical_rank(values)
    first, last = FIT_RANGES[convention]
    if convention == "exact":
        last = min(last, rank // 2)
        if last - first + 1 < FEWEST_RANKS:
            raise Undefined(
                f"the spectrum has {rank} eigenvalues above rounding, and the fit on ranks {first} "
                f"to rank/2 needs at least {2 * (first + FEWEST_RANKS - 1)}"
            )
    elif rank < last:
        raise Undefined(
            f"convention {convention} fits ranks {first}..{last}, and the spectrum has {rank} "
            "eigenvalues above rounding"
        )
    log_rank = np.log(np.arange(1, rank + 1, dtype=np.float64))
    log_value = np.log(values[:rank])
    fitted = slice(first - 1, last)
    x, y = log_rank[fitted], log_value[fitted]
    weight = np.exp(-x)
    weight /= weight.sum()
    x_mean, y_mean = float(weight @ x), float(weight @ y)
    slope = float((weight * (x - x_mean)) @ y) / float((weight * (x - x_mean)) @ (x - x_mean))
    residual = log_value - (y_mean + slope * (log_rank - x_mean))
    return AlphaFit(
        alpha=-slope,
        r2=_r2(y, residual[fitted]),
        r2_13_100=_r2(log_value[12:100], residual[12:100]) if rank >= 100 else None,
        first=first,
        last=last,
    )


@measure(
    name="alpha_r2",
    title="Fit of alpha on its own ranks",
    symbol="R²",
    formula="1 - SS_residual/SS_total of ln lambda_r around the line of alpha, unweighted, on the "
    "ranks that alpha was fitted on.",
    unit="1",
    direction="up",
    conventions=ALPHA_CONVENTIONS,
    source="Li et al. 2025 (arXiv 2509.23024)",
    bibtex=ALPHA_BIBTEX,
    pitfalls=(
        "A high R2 over one decade of ranks is weak evidence for a power law.",
        "The line is fitted with weights 1/r and judged without, so it can be negative.",
    ),
)
def alpha_r2(eigenvalues: Any, convention: str = "exact") -> float:
    """Unweighted R2 of the fit of `alpha` on the fitted ranks.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.
        convention: As for `alpha`.

    Returns:
        The coefficient of determination, at most 1.

    Raises:
        UsageError: There is no such convention.
        Undefined: alpha is, or the fitted eigenvalues are all equal.
    """
    value = alpha(eigenvalues, convention).r2
    if value is None:
        raise Undefined("the fitted eigenvalues are all equal: there is nothing to explain")
    return value


@measure(
    name="alpha_r2_13_100",
    title="Fit of alpha on ranks 13 to 100",
    symbol="R²(13..100)",
    formula="1 - SS_residual/SS_total of ln lambda_r around the line of alpha, unweighted, on "
    "ranks 13..100 whatever ranks alpha was fitted on.",
    unit="1",
    direction="up",
    conventions=ALPHA_CONVENTIONS,
    source="Li et al. 2025 (arXiv 2509.23024), read in the authors' code",
    bibtex=ALPHA_BIBTEX,
    pitfalls=("Undefined with fewer than 100 eigenvalues above rounding.",),
)
def alpha_r2_13_100(eigenvalues: Any, convention: str = "exact") -> float:
    """Unweighted R2 of the fit of `alpha` on ranks 13..100.

    Args:
        eigenvalues: Shape (k,), of the centred covariance.
        convention: As for `alpha`.

    Returns:
        The coefficient of determination, at most 1.

    Raises:
        UsageError: There is no such convention.
        Undefined: alpha is, fewer than 100 eigenvalues are above rounding, or all are equal.
    """
    value = alpha(eigenvalues, convention).r2_13_100
    if value is None:
        rank = numerical_rank(eigenvalues)
        raise Undefined(
            f"ranks 13..100 are judged, and the spectrum has {rank} eigenvalues above rounding"
            if rank < 100
            else "the eigenvalues of ranks 13..100 are all equal: there is nothing to explain"
        )
    return value


def _r2(values: Array, residual: Array) -> float | None:
    """1 - SS_residual/SS_total, or None when the values are equal to rounding."""
    if float(np.ptp(values)) < 1e-12:
        return None
    around = values - values.mean()
    return 1.0 - float(residual @ residual) / float(around @ around)
