"""From a value and its replicates to a reading: what every probe does with what it measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geoprobe.measures.estimate import Undefined, standard_error
from geoprobe.runs.reading import Reading

if TYPE_CHECKING:
    from geoprobe.runs.reading import Key

A_NULL = "no standard error: a null, to compare the value with"

Value = float | str
"""A value, or the reason why there is none."""


def evaluate(function: Callable[..., float], *given: Any) -> Value:
    """The value of a measure, or the reason why it is undefined."""
    try:
        return function(*given)
    except Undefined as undefined:
        return undefined.reason


def jackknifed(
    probe: str,
    measure: str,
    site: str,
    keys: Mapping[str, Key],
    value: Value,
    parts: Sequence[Value],
    n: int,
    why: str = "",
    convention: str = "exact",
) -> Reading:
    """A reading with its jackknife, or the reason why there is none.

    Args:
        probe: The probe that gives it.
        measure: Its measure.
        site: Where it is from.
        keys: What else it depends on.
        value: Its value or the reason why there is none.
        parts: The same without each group; one that has no value is a replicate less.
        n: Samples behind it.
        why: Why there are no parts, where that is known.
        convention: What the value was computed under.
    """

    def made(number: float | None, error: float | None, reason: str) -> Reading:
        kept = tuple(math.nan if isinstance(part, str) else float(part) for part in parts)
        return Reading("", probe, measure, site, keys, number, error, n, convention, reason, kept)

    if isinstance(value, str):
        return made(None, None, value)
    if why and not parts:
        return made(value, None, why if why.startswith("no ") else f"no standard error: {why}")
    stderr, reason = standard_error(value, [p for p in parts if not isinstance(p, str)])
    return made(value, stderr, "" if stderr is not None else f"no standard error: {reason}")
