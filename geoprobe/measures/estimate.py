"""What surrounds a value: the reason it has none, its standard error, its bias-corrected form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from geoprobe.errors import GeoprobeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


ROUNDING = 1e-13
"""A standard error below this share of the value is what rounding makes of no variation at all."""


class Undefined(GeoprobeError, ValueError):  # noqa: N818  a state of the data, not a fault
    """A measure has no value on this input.

    Attributes:
        reason: Why, in words that fit into a reading.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StandardError(NamedTuple):
    """A standard error, or the reason there is none.

    Attributes:
        value: The standard error, in the unit of the value; None when it cannot be had.
        reason: Why it is missing; the empty string when it is not.
    """

    value: float | None
    reason: str = ""


def jackknife(full: float | None, replicates: Sequence[float] | Array) -> StandardError:
    """The delete-one-group jackknife standard error.

    sqrt((G - 1)/G * sum_g (theta_g - mean theta)^2) over the G groups that have a replicate
    (Efron and Stein 1981). A replicate that is not finite stands for a group without rows, or
    one without which the measure is undefined, and is left out.

    Args:
        full: Value on all groups; a value that is missing has no standard error.
        replicates: Shape (G,), the value with group g left out.

    Returns:
        The standard error, or None with the reason.
    """
    if full is None or not math.isfinite(full):
        return StandardError(None, "the value itself is undefined")
    known = [float(value) for value in replicates if math.isfinite(value)]
    groups = len(known)
    if groups < 2:
        return StandardError(
            None, f"a jackknife needs at least 2 groups with a value, and {groups} had one"
        )
    mean = math.fsum(known) / groups
    spread = math.fsum((value - mean) ** 2 for value in known)
    return StandardError(math.sqrt((groups - 1) / groups * spread))


def standard_error(full: float, replicates: Sequence[float] | Array) -> StandardError:
    """The jackknife standard error of a value that varies; None where only rounding does.

    Args:
        full: Value on all groups.
        replicates: Shape (G,), the value with group g left out.
    """
    error = jackknife(full, replicates)
    if error.value is not None and error.value <= ROUNDING * abs(full):
        return StandardError(None, "the groups do not vary")
    return error


def bias_corrected(full: float, half: float) -> float:
    """The value with its leading finite-sample bias removed: 2 * full - half.

    Exact when the bias falls as 1/n.

    Args:
        full: Value on n samples.
        half: Mean of the values on halves of n/2 samples.

    Returns:
        The corrected value, in the same unit. It may leave the range of the measure.
    """
    return 2.0 * full - half
