"""Neurons: how their activations are distributed, and how their weights lie.

Section 4 of the method. Moments are those of each neuron, or coordinate, over the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure
from geoprobe.measures.rows import Blocks, Matrix, as_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
else:
    np = Lazy("numpy")

TOP = 100
"""One in so many coordinates is among the top ones, and at least one is."""

_ROTATION = (
    "Q x: random signs, drawn by the seed, and an orthonormal discrete Hartley transform, both "
    "done twice"
)


@measure(
    name="kurtosis",
    title="Excess kurtosis of neurons",
    symbol="κ",
    formula="Mean over neurons (or coordinates of a site) of m4/m2^2 - 3, the central moments of a "
    "neuron's activation over all tokens; neurons that never vary left out. With the key `basis` = "
    f"rotated, the same of {_ROTATION}.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="The fourth standardised moment, less the Gaussian's 3; as a sign of a privileged basis "
    "Elhage et al. 2023",
    bibtex=sources.ELHAGE_2023,
    pitfalls=(
        "0 is a Gaussian's; sparse neurons have much more, and one outlier in n tokens up to n.",
        "Tokens of different norm make every direction heavy-tailed: compare it with that of the "
        "rotated basis, which is the null.",
        "A mean: a few neurons may be all of it. Each neuron's is kept beside it.",
    ),
    section="superposition",
)
def kurtosis(m2: ArrayLike, m4: ArrayLike) -> float:
    """Mean excess kurtosis over the neurons that vary; a Gaussian has 0.

    Args:
        m2: Second central moment of each neuron (d,).
        m4: Fourth central moment (d,).

    Raises:
        Undefined: No neuron varies.
    """
    each = excess_kurtosis(m2, m4)
    known = each[np.isfinite(each)]
    if not len(known):
        raise Undefined("no neuron varies")
    return float(known.mean())


def excess_kurtosis(m2: ArrayLike, m4: ArrayLike) -> Array:
    """m4/m2^2 - 3 of each neuron (d,); NaN where it never varies.

    Args:
        m2: Second central moment of each neuron (d,).
        m4: Fourth central moment (d,).
    """
    second, fourth = (np.asarray(m, dtype=np.float64) for m in (m2, m4))
    varies = second > 0
    safe = np.where(varies, second, 1.0)
    return np.where(varies, fourth / safe / safe - 3.0, np.nan)


@measure(
    name="privileged_basis",
    title="Privileged basis",
    symbol="s/s_Q",
    formula="s / mean_Q s_Q. s is the share of a site's variance (the sum of its coordinates' "
    "variances over all tokens) that the top 1 % of coordinates have, at least one; s_Q is the "
    f"same of the variances (Q S Q^T)_kk after a random rotation {_ROTATION}. The mean is over 2 "
    "to 8 such Q, as many as have 20 top coordinates; with the key `basis` = rotated, the largest "
    "of what each Q has over the mean of the others.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe; the comparison with random rotations as in Elhage et al. 2023",
    bibtex=sources.ELHAGE_2023,
    pitfalls=(
        "1 says that the coordinates are as good as any others by their variance alone; see "
        "kurtosis for the rest of their distribution.",
        "s and s_Q are of the same tokens: of more than 8,192 every second, third ... of each "
        "sequence, about 4,096 in all (n says how many).",
        "Where it is not above the null (key `basis` = rotated), a random basis is as privileged. "
        "The standard error is that of the tokens, with the rotations as they are.",
        "Of fewer than 200 coordinates the top 1 % is one of them.",
    ),
    section="superposition",
)
def privileged_basis(variances: ArrayLike, rotated: ArrayLike) -> float:
    """How much more of the variance the top 1 % of coordinates have than after random rotations.

    Args:
        variances: Variance of each coordinate (d,).
        rotated: The same after each of some rotations (q, d), or after one (d,).

    Returns:
        1 where the basis is not privileged, and more where variance is in few coordinates.

    Raises:
        Undefined: Nothing varies.
    """
    shares = [top_share(some) for some in np.atleast_2d(np.asarray(rotated, dtype=np.float64))]
    return top_share(variances) / float(np.mean(shares))


def top_share(variances: ArrayLike) -> float:
    """Share of the variance in the top 1 % of coordinates, and at least one.

    Args:
        variances: Variance of each coordinate (d,).

    Raises:
        Undefined: Nothing varies.
    """
    found = np.sort(np.asarray(variances, dtype=np.float64))[::-1]
    largest = found[0] if len(found) else 0.0
    if not largest > 0:
        raise Undefined("the activations do not vary")
    found = found / largest
    return float(found[: max(1, len(found) // TOP)].sum() / found.sum())


@measure(
    name="in_out_cosine",
    title="Cosine of a neuron's input and output weights",
    symbol="cos(in, out)",
    formula="Mean over the neurons of an MLP of the cosine of the row that reads the residual "
    "stream into a neuron (of the gate, of up) with the row it writes back; rows of zero left out.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe, section 4 of its method",
    pitfalls=(
        "Cosines of both signs cancel in the mean: each neuron's is kept beside it.",
        "What a norm in front of the MLP multiplies with is not folded in.",
    ),
    section="superposition",
)
def in_out_cosine(cosines: ArrayLike) -> float:
    """Mean cosine over the neurons that have one.

    Args:
        cosines: Of each neuron (n,), NaN where there is none.

    Raises:
        Undefined: No neuron has one.
    """
    found = np.asarray(cosines, dtype=np.float64)
    known = found[np.isfinite(found)]
    if not len(known):
        raise Undefined("no neuron has both weights")
    return float(known.mean())


def paired_cosines(first: Matrix, second: Matrix) -> Array:
    """Cosine of each row of one matrix with the same row of another (n,); NaN of a zero row.

    Args:
        first: Rows (n, m).
        second: Rows (n, m).

    Raises:
        UsageError: A matrix has not two dimensions.
        Undefined: Their shapes differ, or there is a NaN or an infinity.
    """
    one, other = as_rows(first), as_rows(second)
    if tuple(one.shape) != tuple(other.shape):
        raise Undefined(f"the shapes {tuple(one.shape)} and {tuple(other.shape)} differ")
    if isinstance(one, Blocks) != isinstance(other, Blocks):  # one on an accelerator alone
        one, other = Blocks(one), Blocks(other)
    there = (one.norms() > 0) & (other.norms() > 0)
    return np.where(there, np.clip(one.cosines(other), -1.0, 1.0), np.nan)
