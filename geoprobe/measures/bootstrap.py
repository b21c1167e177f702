"""Standard errors of ratios over clusters, such as all prompts of one subject."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from geoprobe.errors import UsageError
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import ROUNDING, StandardError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike
else:
    np = Lazy("numpy")


def bootstrap_error(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0, repeats: int = 1000
) -> StandardError:
    """The bootstrap standard error of a ratio of sums over clusters.

    Clusters are drawn with replacement, as many as there are, and the ratio is formed anew: the
    standard deviation of these ratios. Prompts of one subject are one cluster, as they are right
    and wrong together. Draws in which the denominator is 0 have no ratio and are left out.

    Args:
        numerators: What each cluster adds to the numerator (clusters,).
        denominators: What each adds to the denominator, at least 0 (clusters,).
        seed: Seed of the draws. The same seed draws the same clusters of as many.
        repeats: Number of draws.

    Returns:
        The standard error, in the unit of the ratio, or None with the reason.

    Raises:
        UsageError: The shapes do not fit, or there are fewer than 2 repeats.
    """
    above, below = (np.asarray(x, dtype=np.float64) for x in (numerators, denominators))
    if above.ndim != 1 or above.shape != below.shape:
        raise UsageError(
            f"Numerators of shape {above.shape} and denominators of shape {below.shape}: give one "
            "of each a cluster."
        )
    if repeats < 2:
        raise UsageError(f"{repeats} repeats: a standard deviation needs at least 2.")
    clusters, whole = len(above), float(below.sum())
    value = float(above.sum()) / whole if whole > 0 else math.nan
    if not math.isfinite(value):
        return StandardError(None, "the value itself is undefined")
    present = int(np.count_nonzero(below))
    if present < 2:
        return StandardError(
            None, f"a bootstrap needs at least 2 clusters with a value, and {present} had one"
        )
    draw = np.random.default_rng(seed)
    counts: Any = draw.multinomial(clusters, np.full(clusters, 1 / clusters), size=repeats)
    sums = counts @ below
    there = sums > 0
    ratios = (counts @ above)[there] / sums[there]
    error = float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
    if error <= ROUNDING * abs(value):
        return StandardError(None, "the clusters do not vary")
    return StandardError(error)
