"""What a run has of one checkpoint: readings without a search, findings by their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import polars as pl

    from geoprobe.runs.folder import Run

    Findings = list[dict[str, Any]]

_BY_KIND: WeakKeyDictionary[Run, tuple[Findings, dict[tuple[str, str], Findings]]] = (
    WeakKeyDictionary()
)
"""The findings of a run as they were, and the same by checkpoint and kind."""


def readings_at(run: Run, label: str) -> pl.DataFrame:
    """The readings of one checkpoint; they stand together in a run's table."""
    index = run.labels.index(label)
    start, end = (run.readings["index"].search_sorted(index, side) for side in ("left", "right"))
    return run.readings[start:end]


def findings_at(run: Run, label: str, kind: str) -> list[dict[str, Any]]:
    """The findings of a kind in one checkpoint."""
    findings, known = run.findings, _BY_KIND.get(run)
    # A run that was written to has another list.
    if known is None or known[0] is not findings:
        known = findings, {}
        for finding in findings:
            at = finding.get("checkpoint")
            if isinstance(at, str):
                known[1].setdefault((at, finding["kind"]), []).append(finding)
        _BY_KIND[run] = known
    return known[1].get((label, kind), [])
