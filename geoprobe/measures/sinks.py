"""Attention sinks: scores and rates, massive activations, the primary sink's stages, levels.

Section 5 of the method: Gu et al. 2024 for scores, Sun et al. 2024 for massive activations, and the
rule of arXiv 2512.22213 for secondary sinks and their levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from geoprobe.measures import sources
from geoprobe.measures._lazy import Lazy
from geoprobe.measures.estimate import Undefined
from geoprobe.measures.registry import ONLY_EXACT, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray
else:
    np = Lazy("numpy")

STAGE_RATIO = 2.0
"""A stage is where the primary's norm exceeds so many medians of the other tokens."""

ALIGNED = 0.9
"""|cosine| with the primary beyond which a token is a secondary sink."""

MASSIVE, MASSIVE_RATIO = 100.0, 1000.0
"""An activation is massive beyond the first, and from so many medians of its layer on."""

AUTHORS_LEAST, AUTHORS_MARGIN = 4, 15
"""The authors' label: secondary where 4 < lifetime < L - 15."""

DEPTH_LEAST, DEPTH_MOST = 1 / 9, 0.58
"""The label by depth: secondary where L/9 < lifetime < 0.58 L."""


class Stage(NamedTuple):
    """A maximal run of blocks where the primary sink stands out.

    Attributes:
        start: Its first block.
        end: The block behind its last.
        peak: Largest mean norm of the primary in it.
    """

    start: int
    end: int
    peak: float


class Levels(NamedTuple):
    """Where each token is a secondary sink, by one span of blocks.

    Attributes:
        l_start: First block of the span in which it is aligned (n,); -1 for tokens that are none.
        lifetime: In how many blocks of the span (n,).
    """

    l_start: NDArray[np.int64]
    lifetime: NDArray[np.int64]


@measure(
    name="sink_score",
    title="Sink score",
    symbol="alpha_k",
    formula="Mean attention to position k over the queries i >= k of a sequence, then over "
    "sequences; for each layer and head.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Gu et al. 2024 (arXiv 2410.10781), section 3",
    bibtex=sources.GU_2024,
    pitfalls=(
        "A position near the end of the sequence has few queries, and its score is large for that.",
        "It falls with the length T: compare only scores of the same length.",
    ),
    section="sinks",
)
def sink_score(scores: ArrayLike) -> float:
    """Mean score of one layer, head and position.

    Args:
        scores: Mean attention of each sequence (n,).

    Returns:
        Their mean, from 0 to 1.

    Raises:
        Undefined: There are no sequences.
    """
    return float(_some(scores).mean())


@measure(
    name="sink_rate",
    title="Sink rate",
    symbol="Sink_k^eps",
    formula="Share of (layer, head, sequence) whose sink score alpha_k exceeds eps (0.3 by "
    "default).",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Gu et al. 2024 (arXiv 2410.10781), section 3: T = 64, 100 sequences, eps = 0.3",
    bibtex=sources.GU_2024,
    pitfalls=(
        "It depends on eps and T; published values are for 0.3 and 64.",
        "Text of one repeated token without BOS makes all positions of a rotary model equal: the "
        "rate of the first one is then 0, whatever the model.",
    ),
    section="sinks",
)
def sink_rate(scores: ArrayLike, eps: float = 0.3) -> float:
    """Share of scores beyond eps.

    Args:
        scores: Sink scores, one a layer, head and sequence (n,).
        eps: The threshold.

    Returns:
        The share, from 0 to 1.

    Raises:
        Undefined: There are no scores.
    """
    return float((_some(scores) > eps).mean())


@measure(
    name="sink_mass",
    title="Sink mass",
    symbol="m_S",
    formula="Mean over the real queries outside the set S of the attention to all keys in S; S is "
    "the first position, the primary sink, or every sink of the sequence. `learned` is what a "
    "learned sink takes: 1 less the sum of a row.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="geoprobe; the mean over queries of what Gu et al. 2024 sum for one key",
    bibtex=sources.GU_2024,
    pitfalls=("Early queries see few keys: short sequences give larger masses.",),
    section="sinks",
)
def sink_mass(mass: ArrayLike, queries: ArrayLike) -> float:
    """Mean mass of a query.

    Args:
        mass: Sums over the queries of each sequence of their attention to the set (n,).
        queries: Number of such queries of each sequence (n,).

    Raises:
        Undefined: There are no queries.
    """
    total = float(np.sum(queries))
    if total <= 0:
        raise Undefined("no query lies outside the set")
    return float(np.sum(mass) / total)


@measure(
    name="primary_norm",
    title="Norm of the primary sink",
    symbol="n_l",
    formula="Mean L2 norm of the primary sink's residual stream after each block; the primary is "
    "the one of positions 0 to 7 whose norm, averaged over blocks and sequences, is largest.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="arXiv 2512.22213",
    bibtex=sources.SECONDARY_SINKS_2025,
    pitfalls=(
        "A chat template can put the primary at another position than 0.",
        "Every model has a primary; only where it stands out (stages) is it a sink.",
    ),
    section="sinks",
)
def primary_norm(norms: ArrayLike) -> float:
    """Mean norm of the primary after one block.

    Args:
        norms: Its norm in each sequence (n,).

    Raises:
        Undefined: There are no sequences.
    """
    return float(_some(norms).mean())


@measure(
    name="massive_activation",
    title="Massive activation",
    symbol="|a|",
    formula="The k-th largest magnitude of a residual-stream activation in a sequence after a "
    "block, averaged over sequences; massive where it exceeds 100 and is at least 1000 times the "
    "median magnitude of the layer.",
    unit="1",
    direction="either",
    conventions=ONLY_EXACT,
    source="Sun et al. 2024 (arXiv 2402.17762), section 2",
    bibtex=sources.SUN_2024,
    pitfalls=("Models of small width or scale have sinks without massive activations.",),
    section="sinks",
)
def massive_activation(magnitudes: ArrayLike) -> float:
    """Mean over sequences of their k-th largest magnitude.

    Args:
        magnitudes: One a sequence (n,).

    Raises:
        Undefined: There are no sequences.
    """
    return float(_some(magnitudes).mean())


def is_massive(magnitude: float, median: float) -> bool:
    """Whether an activation is massive (Sun et al. 2024): beyond 100, and 1000 medians."""
    return magnitude > MASSIVE and magnitude >= MASSIVE_RATIO * median


def primary_position(norms: ArrayLike) -> int:
    """The primary sink: the candidate position whose norm, averaged over blocks, is largest.

    Args:
        norms: Mean norm of each candidate after each block (blocks, positions).
    """
    return int(np.asarray(norms, dtype=np.float64).mean(axis=0).argmax())


def stages(primary: ArrayLike, others: ArrayLike, ratio: float = STAGE_RATIO) -> list[Stage]:
    """Every maximal run of blocks where the primary's norm exceeds `ratio` medians of the others.

    Args:
        primary: Mean norm of the primary after each block (L,).
        others: Median norm of the other tokens after each block (L,).
        ratio: How far it stands out.

    Returns:
        The stages in order of depth. A massive stage right behind a modest one is one run; two
        with a gap between them are two.
    """
    norm, median = np.asarray(primary, dtype=np.float64), np.asarray(others, dtype=np.float64)
    out = np.concatenate([[False], norm > ratio * median, [False]])
    edges = np.flatnonzero(out[1:] != out[:-1])
    return [
        Stage(int(a), int(b), float(norm[a:b].max()))
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def span(primary: ArrayLike) -> tuple[int, int]:
    """The authors' span of the primary: from behind its steepest rise to behind its steepest fall.

    start = argmax(n_{l+1} - n_l) + 1; end = argmin over l >= start of the difference, + start + 1.

    Args:
        primary: Mean norm of the primary after each block (L,).

    Returns:
        First block, and the one behind the last; (0, L) of a single block.
    """
    difference = np.diff(np.asarray(primary, dtype=np.float64))
    if not len(difference):
        return 0, 1
    start = int(difference.argmax()) + 1
    after = difference[start:]
    end = int(after.argmin()) + start + 1 if len(after) else len(difference) + 1
    return start, end


def spans(primary: ArrayLike, found: Sequence[Stage]) -> list[tuple[int, int]]:
    """Where secondary sinks are sought.

    The authors' rule gives one span, that of the steepest rise. A model may have more stages than
    those which this span meets: each of the others has a span by the same rule, from behind the
    steepest rise into one of its blocks to behind the steepest fall from there on.

    Args:
        primary: Mean norm of the primary after each block (L,).
        found: Its stages, in order of depth.

    Returns:
        Spans in order of depth, that do not overlap; none where the authors' span meets no stage
        and there are none.
    """
    norm = np.asarray(primary, dtype=np.float64)
    first, last = span(norm)
    met = [stage for stage in found if stage.start < last and first < stage.end]
    kept = [(first, last)] if met else []
    for stage in found:
        if stage not in met:
            # Before the first block there is the embedding, whose norm is small.
            before = norm[stage.start - 1] if stage.start else 0.0
            start = stage.start + int(np.diff([before, *norm[stage.start : stage.end]]).argmax())
            falls = np.diff(norm[start : stage.end + 1])
            kept.append((start, start + int(falls.argmin()) + 1 if len(falls) else stage.end))
    return sorted(kept)


def levels(aligned: ArrayLike, first: int, last: int) -> Levels:
    """Where each token begins to be a secondary sink, and for how many blocks.

    Args:
        aligned: Whether |cos| with the primary exceeds 0.9 after each block (L, n).
        first: First block of the primary's span.
        last: The block behind its last.
    """
    inside = np.asarray(aligned, dtype=bool)[first:last]
    lifetime = inside.sum(axis=0).astype(np.int64)
    begins = inside.argmax(axis=0) + first if len(inside) else np.zeros(inside.shape[1], int)
    return Levels(np.where(lifetime > 0, begins, -1).astype(np.int64), lifetime)


def is_secondary(lifetime: int, depth: int, convention: str) -> bool:
    """Whether a level's tokens are secondary sinks.

    Args:
        lifetime: In how many blocks they are aligned with the primary.
        depth: Number of blocks L.
        convention: `authors` (4 < lifetime < L - 15, which no model under 20 blocks can meet) or
            `depth` (L/9 < lifetime < 0.58 L).
    """
    if convention == "authors":
        return AUTHORS_LEAST < lifetime < depth - AUTHORS_MARGIN
    return DEPTH_LEAST * depth < lifetime < DEPTH_MOST * depth


def _some(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    if not found.size:
        raise Undefined("there are no sequences")
    return found
