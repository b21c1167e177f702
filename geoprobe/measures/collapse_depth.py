"""Collapse over depth: the law of data separation, and how far layers move the class means' frame.

Section 2 of the method, near collapse; shapes and centring are those of `class_means`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.class_means import centred_at_mean
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.frames import gram_norm
from geoprobe.measures.registry import ONLY_EXACT, Card, measure, register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike
else:
    np = Lazy("numpy")

LEAST_LAYERS = 3
"""A line through fewer says nothing."""


class Decay(NamedTuple):
    """A fitted geometric decay.

    Attributes:
        rate: Factor from one layer to the next; below 1 where it falls.
        r2: Share of the variance of the logarithms that the line explains.
    """

    rate: float
    r2: float


@measure(
    name="separation_decay",
    title="Decay of separation fuzziness",
    symbol="rho",
    formula="exp of the slope of a least-squares line through ln(separation) on the number of the "
    "layer: the factor by which one layer reduces it.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="He and Su 2023 (arXiv 2210.17020), the law of data separation",
    bibtex=sources.HE_SU_2023,
    pitfalls=("Read it with separation_decay_r2: where that is low there is no law.",),
    section="collapse",
)
def separation_decay(separations: ArrayLike, layers: ArrayLike | None = None) -> Decay:
    """Fits the law of data separation.

    Args:
        separations: Separation fuzziness of each layer, in order of depth (L,).
        layers: The number of each (L,); None where they follow one another.

    Raises:
        Undefined: Fewer than three layers, or values that are not positive.
    """
    values = np.asarray(separations, dtype=np.float64)
    if len(values) < LEAST_LAYERS:
        raise Undefined(f"a rate needs at least {LEAST_LAYERS} layers, and there are {len(values)}")
    if not (values > 0).all():
        raise Undefined("a layer's separation is zero, which has no logarithm")
    depth = np.arange(len(values)) if layers is None else np.asarray(layers, dtype=np.float64)
    depth = depth - depth.mean()
    y = np.log(values)
    around = y - y.mean()
    slope = float(depth @ around / (depth @ depth))
    total = float(around @ around)
    if total <= 0:
        raise Undefined("the separation is the same at every layer")
    rest = around - slope * depth
    return Decay(math.exp(slope), 1 - float(rest @ rest) / total)


register(
    Card(
        name="separation_decay_r2",
        title="Fit of the law of data separation",
        symbol="R2 of rho",
        formula="Share of the variance of ln(separation) over the layers that the line of "
        "separation_decay explains.",
        unit="1",
        direction="either",
        conventions=ONLY_EXACT,
        source="He and Su 2023 (arXiv 2210.17020)",
        bibtex=sources.HE_SU_2023,
        pitfalls=("High for anything that falls steadily, be it geometric or not.",),
        section="collapse",
    )
)


@measure(
    name="geometry_distance",
    title="Distance of a layer's frame from its input's",
    symbol="d(G, G')",
    formula="|G/|G|_F - G'/|G'|_F|_F of the Gram matrices of centred class means at a site and at "
    "the one that the key `from` names: the site before, or the first.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe; after Tirer, Huang and Niles-Weed 2023 (arXiv 2210.16658), where near "
    "collapse is what a layer does to given features",
    bibtex=sources.TIRER_2023,
    pitfalls=("A layer that rotates or scales its features is at distance 0 of its input.",),
    section="collapse",
)
def geometry_distance(means: ArrayLike, others: ArrayLike) -> float:
    """How far two frames of class means are apart, whatever their size, place and orientation.

    Args:
        means: Class means (C, d).
        others: Means of the same classes elsewhere (C, d').

    Returns:
        From 0 to sqrt(2).

    Raises:
        Undefined: Fewer than two classes, or class means that are all the same.
    """
    here, there = centred_at_mean(means), centred_at_mean(others)
    sizes = gram_norm(here), gram_norm(there)
    if len(here) > max(here.shape[1], there.shape[1]):
        # <G, G'> = |M^T M'|_F^2; near 0 the root of the difference is rounding, about 1e-8.
        product = float(((here.T @ there) ** 2).sum()) / (sizes[0] * sizes[1])
        return math.sqrt(max(0.0, 2 - 2 * product))
    difference = here @ here.T / sizes[0] - there @ there.T / sizes[1]
    return float(np.linalg.norm(difference))
