"""Phases of training in a series of RankMe values (Li et al. 2025).

Warmup (RankMe falls, alpha rises), entropy-seeking (RankMe rises, alpha falls),
compression-seeking (RankMe falls, alpha rises).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Series = Sequence[float | None] | npt.NDArray[np.float64]

PhaseName = Literal["warmup", "entropy-seeking", "compression-seeking"]
FEWEST_ERRORS = 2.0
"""A change counts when it exceeds this many combined standard errors."""


class Phase(NamedTuple):
    """A stretch of training over which RankMe moved one way, beyond its standard error.

    Attributes:
        name: `warmup`, `entropy-seeking` or `compression-seeking`.
        start: Index of its first checkpoint in the series given.
        end: Index of its last checkpoint; the next phase starts there.
        start_x: x at the start.
        end_x: x at the end.
        change: ln RankMe at the end less that at the start.
        stderr: Combined standard error of the change: the root of the sum of squares.
        z: change / stderr.
        alpha_opposes: Whether alpha moved the other way between the same two checkpoints, as in
            the published phases; False where either alpha is missing.
        significant: True: others are not given.
    """

    name: PhaseName
    start: int
    end: int
    start_x: float
    end_x: float
    change: float
    stderr: float
    z: float
    alpha_opposes: bool
    significant: bool = True


def phases(x: Series, ln_rankme: Series, stderr: Series, alpha: Series) -> list[Phase]:
    """The phases of a checkpoint series.

    The pair trough < peak with the largest rise of ln RankMe bounds entropy-seeking; from the
    first checkpoint to the trough is warmup, from the peak to the last one compression-seeking.
    (Both are falls or nothing by that choice: anything else would have made a larger rise.) A
    segment is given only if its change exceeds 2 combined standard errors. Among equal rises the
    one that peaks first is taken, and from its last equal trough.

    Checkpoints without a RankMe are passed over. Where no checkpoint exceeds an earlier one, as
    in a fall throughout or a single checkpoint, nothing tells warmup from compression, and there
    are no phases. A segment with a missing standard error at either end, or none but zero, cannot
    be judged and is not given.

    Args:
        x: Shape (c,), strictly increasing: ln(1 + tokens or step). Boundaries depend on its
            order alone.
        ln_rankme: Shape (c,), in nats; None or NaN where missing.
        stderr: Shape (c,), standard errors of ln_rankme (those of RankMe over RankMe).
        alpha: Shape (c,), the exponent; None or NaN where missing.

    Returns:
        At most three phases, in order of training.

    Raises:
        UsageError: The lengths differ, or x does not increase.
    """
    if not len(x) == len(ln_rankme) == len(stderr) == len(alpha):
        raise UsageError(
            f"A series needs one value of each per checkpoint, but has {len(x)} of x, "
            f"{len(ln_rankme)} of ln RankMe, {len(stderr)} of its error and {len(alpha)} of alpha."
        )
    at = [_number(value) for value in x]
    if any(not later > earlier for earlier, later in pairwise(at)):
        raise UsageError("The checkpoints of a series must be in order: x does not increase.")
    height = [_number(value) for value in ln_rankme]
    error = [_number(value) for value in stderr]
    exponent = [_number(value) for value in alpha]
    known = [i for i, value in enumerate(height) if math.isfinite(value)]
    bounds = _largest_rise(known, height)
    if bounds is None:
        return []
    trough, peak = bounds
    segments: tuple[tuple[PhaseName, int, int], ...] = (
        ("warmup", known[0], trough),
        ("entropy-seeking", trough, peak),
        ("compression-seeking", peak, known[-1]),
    )
    found = []
    for name, start, end in segments:
        change = height[end] - height[start]
        combined = math.hypot(error[start], error[end])
        if abs(change) > FEWEST_ERRORS * combined > 0.0:  # False for a missing error (NaN)
            found.append(
                Phase(
                    name=name,
                    start=start,
                    end=end,
                    start_x=at[start],
                    end_x=at[end],
                    change=change,
                    stderr=combined,
                    z=change / combined,
                    alpha_opposes=(exponent[end] - exponent[start]) * change < 0.0,
                )
            )
    return found


def _number(value: float | None) -> float:
    """The value as a float, NaN for None and infinities."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _largest_rise(known: list[int], height: list[float]) -> tuple[int, int] | None:
    """The pair of checkpoints with the largest rise, or None where nothing rises."""
    best: tuple[int, int] | None = None
    rise = 0.0
    trough = known[0] if known else 0
    for i in known:
        if height[i] <= height[trough]:  # the last of equal troughs: the shorter rise
            trough = i
        elif height[i] - height[trough] > rise:
            best, rise = (trough, i), height[i] - height[trough]
    return best
