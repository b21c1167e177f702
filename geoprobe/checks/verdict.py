"""What a check found: every reading beside its baseline, and whether it may pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from geoprobe.runs.reading import Key

Status = Literal["same", "moved", "failed", "missing"]
"""`same`: within the numerical floor. `moved`: beyond it, and within what is expected. `failed`: an
expectation is violated. `missing`: there is no value to compare, which never passes."""

PASSED, FAILED, NOT_COMPARABLE = 0, 1, 3


@dataclass(frozen=True)
class Change:
    """One reading beside its baseline.

    Attributes:
        probe: Of the reading.
        measure: Of the reading.
        site: Of the reading.
        convention: Of the reading.
        keys: Of the reading.
        before: Its value in the baseline; None where there is none.
        after: Its value now; None where there is none.
        stderr: Standard error of the difference: paired on the same text, of both values in
            quadrature otherwise; None where it is not known.
        floor: Difference that other numerics alone can make; None where it is not known.
        paired: Whether `stderr` is of paired differences.
        p: Two-sided p-value of the difference against `stderr`, corrected for the number of
            readings; None without a standard error.
        status: What comes of it.
        why: In words, which expectation is violated or what is missing; empty otherwise.
        severity: By how much it violates, for the order: the smallest of the ratios of the
            difference to what it had to exceed; infinite where a value is missing.
    """

    probe: str
    measure: str
    site: str
    convention: str
    keys: Mapping[str, Key]
    before: float | None
    after: float | None
    stderr: float | None = None
    floor: float | None = None
    paired: bool = False
    p: float | None = None
    status: Status = "same"
    why: str = ""
    severity: float = 0.0

    @property
    def difference(self) -> float | None:
        """After less before."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def relative(self) -> float | None:
        """The difference as a share of the size of the value before."""
        if self.difference is None or not self.before:
            return None
        return self.difference / abs(self.before)

    @property
    def sigmas(self) -> float | None:
        """The difference in standard errors."""
        if self.difference is None or not self.stderr:
            return None
        return self.difference / self.stderr


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        changes: All readings, worst first.
        problems: Sentences on why the two cannot be compared as they are; any of them is exit 3.
        notes: Sentences for the reader.
        before: What is known of the baseline: `label`, `corpus`, `environment`, `options`, ...
        after: The same of what was measured now.
        unpaired: Whether texts differ on purpose.
    """

    changes: tuple[Change, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    unpaired: bool = False

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 not comparable: what is missing is worse than what moved.

        Where every reading is ignored, or undefined on both sides, nothing was checked: 3 as well.
        """
        judged = [change for change in self.changes if change.status != "same" or not change.why]
        if self.problems or not judged or self.of("missing"):
            return NOT_COMPARABLE
        return FAILED if self.of("failed") else PASSED

    def of(self, status: Status) -> list[Change]:
        """The readings of a status, worst first."""
        return [change for change in self.changes if change.status == status]
