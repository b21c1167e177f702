"""A reading: one number with everything needed to trust, compare and find it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Key = str | int | float

COLUMNS = (
    *("checkpoint", "index", "stage", "step", "training_tokens", "epoch"),
    *("probe", "measure", "site"),
    *("value", "stderr", "n", "convention", "reason"),
)
"""Columns that every table of readings has; no key may be called like one."""


@dataclass(frozen=True)
class Reading:
    """One measured value of one checkpoint.

    Attributes:
        checkpoint: Label of the checkpoint in its series.
        probe: Name of the probe that gave it (`spectrum`).
        measure: Name of the measure in the registry (`rankme`).
        site: Where in the model (`embed`, `block.3`, `final`, `model`).
        keys: What else it depends on: `tokens`, `sinks` (in/out), `k`, `head`, ...
        value: The value, or None when it is undefined; then `reason` says why.
        stderr: Its standard error, or None; then `reason` says why.
        n: Number of samples (rows) behind it.
        convention: Name of the convention it was computed under.
        reason: Why value or stderr is missing; the empty string when nothing is.
        replicates: The value without each jackknife group, in the order of the groups that are
            there; NaN where it has none. Kept as an array beside the readings.
    """

    checkpoint: str
    probe: str
    measure: str
    site: str
    keys: Mapping[str, Key] = field(default_factory=dict)
    value: float | None = None
    stderr: float | None = None
    n: int = 0
    convention: str = "exact"
    reason: str = ""
    replicates: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        taken = sorted(set(self.keys) & set(COLUMNS))
        if taken:
            raise ValueError(f"{self.measure}: a key cannot be named {', '.join(taken)}")
        for name in ("value", "stderr"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.measure}: {name} is {number}; give None and a reason")
        if self.value is None and not self.reason:
            raise ValueError(f"{self.measure}: a reading without a value needs a reason")

    def to_json(self) -> dict[str, Any]:
        """The reading as a JSON object with fixed field order and sorted keys."""
        return {
            "checkpoint": self.checkpoint,
            "probe": self.probe,
            "measure": self.measure,
            "site": self.site,
            "keys": {name: _plain(key) for name, key in sorted(self.keys.items())},
            "value": None if self.value is None else float(self.value),
            "stderr": None if self.stderr is None else float(self.stderr),
            "n": int(self.n),
            "convention": self.convention,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reading:
        """The inverse of `to_json`."""
        return cls(**data)


def _plain(key: Any) -> Key:
    """A key as JSON has it; NumPy's numbers are not."""
    plain: Key = key.item() if hasattr(key, "item") else key
    return plain
