"""Which neurons are a relation's: those that tell its prompts from the prompts of other relations.

A million neurons are scored on a few hundred prompts each, so that scores are read in blocks of
neurons that fit in a core's cache, one block a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoprobe.cores import cores
from geoprobe.errors import UsageError
from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.intp]
else:
    np = Lazy("numpy")

_BLOCK_NUMBERS = 2**15
"""Scores at a time: their sort keys take 256 KiB."""
_FREED = 2**23
"""Bytes: far more than a block's, and less than 32 MiB, up to which glibc learns."""
DECIMALS = 12
"""Precisions and entropies that agree to so many decimals are equal: the rest is rounding."""


@measure(
    name="average_precision",
    title="Average precision of the k-th best neuron",
    symbol="AP",
    formula="AP = sum over thresholds t, from the highest score down, of (R_t - R_{t-1}) P_t, with "
    "precision P_t and recall R_t of the prompts that score at least t; prompts of equal score "
    "share a threshold. A neuron is one output unit of gate_proj, up_proj or down_proj, its score "
    "is its mean output over a prompt's tokens, and the prompts of relation r stand against at "
    "most 4 times as many of the other relations. The reading is the AP of the k-th best neuron; "
    "neurons of equal AP (to 12 decimals) are ordered by (m1 - m0)/sqrt((v1 + v0)/2), means and "
    "variances (over n) of their scores on r's prompts and on the others, then by index.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Liu et al. 2025 (arXiv 2502.17355); ties as scikit-learn's average_precision_score "
    "has them",
    bibtex=sources.LIU_2025,
    pitfalls=(
        "With few prompts high values come by chance, as there are so many neurons: compare with "
        "the same of shuffled labels (key `labels` = shuffled). Of 5 prompts against 20, one in "
        "53,130 neurons that have nothing to do with a relation has an AP of 1.",
        "Without a relation the AP is a little above the share of r's prompts, a fifth of them.",
        "With few prompts hundreds of neurons have an AP of 1, and which of them are the best k is "
        "decided by the order of equals.",
        "It finds neurons that are high on a relation's prompts, not those that are low, and words "
        "that its templates have in common suffice for a high value.",
    ),
    section="relations",
)
def average_precision(scores: ArrayLike, labels: ArrayLike, *, threads: int | None = None) -> Array:
    """The average precision by which each neuron's score separates the labelled prompts.

    Equal to scikit-learn's `average_precision_score` for each neuron: prompts of equal score share
    a threshold. It depends on the order of a neuron's scores alone; infinities are ordered, and
    -0.0 equals 0.0.

    Args:
        scores: One score a prompt and neuron (prompts, neurons). Float32 takes half the time of
            float64, to which other types are converted.
        labels: Whether a prompt is of the relation (prompts,).
        threads: Blocks of neurons at once; default: one for each core this process may use.

    Returns:
        Shape (neurons,), above 0 and at most 1.

    Raises:
        UsageError: The shapes do not fit.
        Undefined: No prompt is of the relation, or every one is; or some scores are NaN.
    """
    matrix, positive = _scores(scores, labels)
    count = int(positive.sum())
    keys = positive.astype(np.int64)

    def block(columns: Any) -> Array:
        rows = np.ascontiguousarray(np.ascontiguousarray(columns).T)  # in cache for the transposing
        bad = np.isnan(rows).any(axis=1)
        if rows.dtype == np.float32:
            hits, ends = _by_keys(rows, keys)
        else:
            hits, ends = _by_argsort(rows, positive)
        found = _from_order(hits, ends, count)
        found[bad] = np.nan
        return found

    found = _blockwise(block, matrix, threads)
    missing = int(np.isnan(found).sum())
    if missing:
        raise Undefined(f"scores of {missing} of {len(found)} neurons are NaN on some prompt")
    return found


def _scores(scores: ArrayLike, labels: ArrayLike) -> tuple[Any, Flags]:
    """The matrix in float32 or float64, and the labels.

    Raises:
        UsageError: The shapes do not fit.
        Undefined: The labels are all alike.
    """
    matrix, positive = np.asarray(scores), np.asarray(labels, dtype=bool)
    if matrix.ndim != 2 or positive.shape != matrix.shape[:1]:
        raise UsageError(
            f"Scores of shape {matrix.shape} and labels of shape {positive.shape}: give scores "
            "(prompts, neurons) and one label a prompt."
        )
    if not positive.any():
        raise Undefined("no prompt is of the relation")
    if positive.all():
        raise Undefined("every prompt is of the relation: there are no others to tell it from")
    return matrix, positive


def _blockwise(function: Callable[[Any], Array], matrix: Any, threads: int | None) -> Array:
    """Applies a function (prompts, some neurons) -> (some neurons,) to all neurons.

    Args:
        function: What is applied; it gets float32 or float64.
        matrix: Shape (prompts, neurons).
        threads: Blocks at once; NumPy lets go of the interpreter while it sorts and sums.
    """
    from concurrent.futures import ThreadPoolExecutor

    prompts, neurons = matrix.shape
    found = np.empty(neurons)
    exact = np.float32 if matrix.dtype in (np.float16, np.float32) else np.float64
    step = max(1, _BLOCK_NUMBERS // prompts)
    # Having freed so much once, glibc keeps what the blocks free for the next ones; else all of it
    # goes back to the system and is fetched again page by page, which doubled the time.
    np.empty(_FREED, dtype=np.uint8)

    def run(start: int) -> None:
        stop = min(start + step, neurons)
        found[start:stop] = function(matrix[:, start:stop].astype(exact, copy=False))

    with ThreadPoolExecutor(max(1, threads or cores())) as pool:
        for _ in pool.map(run, range(0, neurons, step)):
            pass  # what a block raises is raised here
    return found


def _by_keys(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Flags, Flags]:
    """Labels from the highest score down, by sorting integers: half the time of argsort.

    The bits of a float32, read as an integer, are ordered as the numbers are where the sign is
    positive, and the other way round where it is negative. The label is the lowest bit of a key.

    Args:
        rows: Shape (neurons, prompts).
        labels: 1 for a prompt of the relation, else 0 (prompts,).

    Returns:
        Whether the prompt at each place is of the relation, and whether the next one scores less.
    """
    bits = (rows + np.float32(0)).view(np.int32)  # -0.0 + 0.0 is 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys *= -2
    keys += labels
    keys.sort(axis=1)
    hits = (keys & 1).astype(bool)
    keys >>= 1
    return hits, _ends(keys)


def _by_argsort(rows: Array, labels: Flags) -> tuple[Flags, Flags]:
    """The same of numbers that have no room for a label."""
    order = np.argsort(rows, axis=1)[:, ::-1]
    return labels[order], _ends(np.take_along_axis(rows, order, axis=1))


def _ends(ordered: NDArray[Any]) -> Flags:
    """Where the next number of a row differs, or there is none."""
    found = np.ones(ordered.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=found[:, :-1])
    return found


def _from_order(hits: Flags, ends: Flags, count: int) -> Array:
    """Average precision from labels in order.

    Args:
        hits: Whether each prompt is of the relation, highest score first (neurons, prompts).
        ends: Whether a group of equal scores ends there; every row's last is one.
        count: Prompts of the relation in a row.
    """
    neurons, prompts = hits.shape
    # One running sum over all rows: as a row ends with a group, no group reaches into the next.
    seen = np.cumsum(hits.reshape(-1))
    at = np.flatnonzero(ends.reshape(-1))
    found = seen[at]
    gained = np.diff(found, prepend=0)
    scoring = np.flatnonzero(gained)
    at, found, gained = at[scoring], found[scoring], gained[scoring]
    row = at // prompts
    terms = gained * (found - row * count) / (at - row * prompts + 1)
    total: Array = np.bincount(row, terms, neurons) / count
    return total


def effect_size(scores: ArrayLike, labels: ArrayLike, *, threads: int | None = None) -> Array:
    """How far each neuron's scores on the labelled prompts are above those on the others.

    (m1 - m0) / sqrt((v1 + v0)/2), with means and variances (over n) in float64. Two constants that
    are equal give 0, and unlike ones an infinity.

    Args:
        scores: One score a prompt and neuron (prompts, neurons).
        labels: Whether a prompt is of the relation (prompts,).
        threads: As in `average_precision`.

    Returns:
        Shape (neurons,), in pooled standard deviations.

    Raises:
        UsageError: The shapes do not fit.
        Undefined: No prompt is of the relation, or every one is; or some scores are not finite.
    """
    matrix, positive = _scores(scores, labels)

    def block(columns: Any) -> Array:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            m1, v1 = _moments(columns[positive].astype(np.float64))
            m0, v0 = _moments(columns[~positive].astype(np.float64))
            raised = m1 - m0
            found: Array = np.where(raised == 0, 0.0, raised / np.sqrt((v1 + v0) / 2))
        found[~np.isfinite(columns).all(axis=0)] = np.nan
        return found

    found = _blockwise(block, matrix, threads)
    missing = int(np.isnan(found).sum())
    if missing:
        raise Undefined(f"scores of {missing} of {len(found)} neurons are not finite")
    return found


def _moments(values: Array) -> tuple[Array, Array]:
    """Mean and variance of each column (n, k). Of equal numbers they are exact: that one, and 0."""
    first = values[0].copy()
    values -= first
    return first + values.mean(axis=0), values.var(axis=0)


def top_neurons(precision: ArrayLike, effect: ArrayLike, k: int) -> Indices:
    """The k neurons of highest average precision, the best first.

    Those of equal average precision, to 12 decimals, are ordered by effect size, the larger first,
    and then by index.

    Args:
        precision: Average precision of each neuron (neurons,).
        effect: Effect size of each (neurons,), which may be infinite.
        k: How many.

    Returns:
        Indices (k,).

    Raises:
        UsageError: The shapes do not fit, or there are not k neurons.
        Undefined: One of the numbers is NaN.
    """
    found, beside = (np.asarray(a, dtype=np.float64) for a in (precision, effect))
    if found.ndim != 1 or found.shape != beside.shape:
        raise UsageError(
            f"Average precisions of shape {found.shape} and effect sizes of shape {beside.shape}: "
            "give one of each a neuron."
        )
    if not 1 <= k <= len(found):
        raise UsageError(f"The best {k} of {len(found)} neurons: give a number from 1 to that.")
    if np.isnan(found).any() or np.isnan(beside).any():
        raise Undefined("a neuron's average precision or effect size is NaN")
    lost = -np.round(found, DECIMALS)
    # Only those that can be among the k are put in order.
    near = np.flatnonzero(lost <= np.partition(lost, k - 1)[k - 1])
    order = np.lexsort((near, -beside[near], lost[near]))
    best: Indices = near[order[:k]]
    return best


@dataclass(frozen=True)
class Lape:
    """Neurons that are active on few relations, by the entropy of their activation probabilities.

    Attributes:
        entropy: Of each neuron's shares over the relations, in nats (neurons,); infinite where it
            is never active.
        threshold: A relation has a neuron whose share exceeds this.
        chosen: Indices of the neurons of lowest entropy that exceed it somewhere, lowest first.
        members: For each relation the chosen neurons that exceed it there, lowest entropy first. A
            neuron may belong to several.
    """

    entropy: Array
    threshold: float
    chosen: Indices
    members: tuple[Indices, ...]


@measure(
    name="lape_entropy",
    title="Activation entropy over relations",
    symbol="LAPE",
    formula="-sum_r p_r ln p_r over relations r, with 0 ln 0 = 0 and p_r = P_r / sum P_r, P_r "
    "being the share of the tokens of r's prompts on which a neuron's activation exceeds 0. "
    "Neurons none of whose P_r exceeds the 95th percentile of the P of all neurons and relations "
    "(the round(0.95 n)-th smallest of n) are left out; of the others the round(0.01 N) of lowest "
    "entropy are chosen, N being all neurons, and each is one of every relation for which its P_r "
    "exceeds that percentile.",
    unit="nats",
    direction="either",
    conventions=ONLY_EXACT,
    source="Tang et al. 2024 (arXiv 2402.16438), with relations in place of languages; the order "
    "of operations is that of their code",
    bibtex=sources.TANG_2024,
    pitfalls=(
        "At most ln R for R relations: a value says nothing without R.",
        "The sign of an activation counts, not its size.",
        "The number of neurons is fixed: some are chosen whether or not any are specific.",
        "The percentile is common to all relations: one on whose prompts fewer neurons are active "
        "has fewer of its own, or none.",
    ),
    section="relations",
)
def lape(shares: ArrayLike, *, keep: float = 0.01, bar: float = 0.95) -> Lape:
    """Language activation probability entropy (Tang et al. 2024), with relations for languages.

    Args:
        shares: Share of each relation's tokens on which a neuron is active, from 0 to 1
            (neurons, relations).
        keep: Share of all neurons to choose; fewer are where fewer exceed the threshold.
        bar: The threshold is the round(bar n)-th smallest of the n shares.

    Returns:
        The neurons chosen. Of those of equal entropy, to 12 decimals, the lower index comes first.

    Raises:
        UsageError: `shares` has not two dimensions, or `keep` or `bar` is not in [0, 1].
        Undefined: There are no neurons or fewer than two relations, or a share is not in [0, 1].
    """
    found = np.asarray(shares, dtype=np.float64)
    if found.ndim != 2:
        raise UsageError(f"Shares of shape {found.shape}: give shares (neurons, relations).")
    for name, value in (("keep", keep), ("bar", bar)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} = {value:g}: give a share from 0 to 1.")
    neurons, relations = found.shape
    if not neurons or relations < 2:
        raise Undefined(
            f"{neurons} neurons and {relations} relations: an entropy over relations needs two"
        )
    if not ((found >= 0) & (found <= 1)).all():
        raise Undefined("some shares of tokens are not in [0, 1]")
    place = max(1, round(found.size * bar)) - 1
    threshold = float(np.partition(found, place, axis=None)[place])
    total = found.sum(axis=1)
    active = total > 0
    entropy = np.full(neurons, math.inf)
    p = found[active] / total[active, None]
    terms = p * np.log(p, out=np.zeros_like(p), where=p > 0)
    entropy[active] = np.abs(terms.sum(axis=1))  # no -0.0
    exceeding = np.flatnonzero((found > threshold).any(axis=1))
    order = exceeding[np.argsort(np.round(entropy[exceeding], DECIMALS), kind="stable")]
    chosen = order[: round(neurons * keep)]
    above = found[chosen] > threshold
    return Lape(entropy, threshold, chosen, tuple(chosen[above[:, r]] for r in range(relations)))
