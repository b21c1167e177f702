"""Which checkpoints of a series to measure: every K-th, some spaced in log step, the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from geoprobe.models.series import Checkpoint

Selection = Callable[["list[Checkpoint]"], "list[Checkpoint]"]


def selection(every: int, log_spaced: int | None, last: int | None) -> Selection:
    """Checks the options before anything is looked for; gives what picks the checkpoints."""
    for name, value, least in (
        ("every", every, 1),
        ("log-spaced", log_spaced, 2),
        ("last", last, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"--{name} {value}: give a whole number of at least {least}.")
    given = [
        n
        for n, v in (
            ("--every", every if every > 1 else None),
            ("--log-spaced", log_spaced),
            ("--last", last),
        )
        if v is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other; give one of them.")

    def select(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
        if last is not None:
            return checkpoints[-last:]
        if log_spaced is not None:
            return [checkpoints[i] for i in _log_spaced(checkpoints, log_spaced)]
        kept = checkpoints[::every]
        return kept if kept[-1] is checkpoints[-1] else [*kept, checkpoints[-1]]

    return select


def _log_spaced(checkpoints: Sequence[Checkpoint], number: int) -> list[int]:
    """Indices of `number` checkpoints evenly spaced in ln(1 + progress), ends included."""
    n = len(checkpoints)
    if number >= n:
        return list(range(n))
    x = [math.log1p(p) for p in _progress(checkpoints)]
    chosen = [0]
    for k in range(1, number - 1):
        target = x[0] + (x[-1] - x[0]) * k / (number - 1)
        # Leaves room for those still to be chosen.
        room = range(chosen[-1] + 1, n - (number - 1 - k))
        chosen.append(min(room, key=lambda i: abs(x[i] - target)))
    return [*chosen, n - 1]


def _progress(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """Steps done (else tokens, else epochs) up to each checkpoint, added up over stages."""
    for name in ("step", "tokens", "epoch"):
        values = [getattr(c, name) for c in checkpoints]
        if all(v is not None for v in values):
            before, previous, progress = 0.0, 0.0, []
            for value in values:
                if value < previous:  # a stage that counts from zero again
                    before += previous
                previous = value
                progress.append(before + value)
            return progress
    raise UsageError(
        "--log-spaced needs the step, the tokens or the epoch of every checkpoint; "
        "use --every or --last, or say how to read the names with --pattern."
    )
