"""When collapse begins in a series, as a finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from geoprobe.probes.base import Findings
    from geoprobe.runs.folder import Run

_STDERRS = 2
_SHARE = 0.5


def onset_findings(run: Run) -> Findings:
    """The checkpoint from which on features vary within classes half as much as at their peak.

    By cdnv in front of the last linear map, for each data set: the first checkpoint behind the peak
    from which on it stays at or below half of it. Unlike a quotient of traces it asks every pair of
    classes, and a single direction that most of the variance lies in does not decide. Nothing is
    said where it does not stay there, or where the fall is within two combined standard errors.

    Args:
        run: The run so far.

    Returns:
        At most one finding a data set.
    """
    frame = run.readings
    if "data" not in frame.columns or not run.labels:
        return []
    frame = frame.filter(
        (pl.col("measure") == "cdnv")
        & (pl.col("labels") == "given")
        & pl.col("value").is_not_null()
    )
    found = []
    for name in frame["data"].unique(maintain_order=True).to_list():
        mine = frame.filter(pl.col("data") == name)
        present = set(mine["site"])
        site = [s for s in run.sites if s in present][-1:]
        for last in site:
            finding = _onset(mine.filter(pl.col("site") == last).sort("index"), name, last)
            found += [] if finding is None else [finding]
    return found


def _onset(rows: pl.DataFrame, name: str, site: str) -> dict[str, Any] | None:
    values = rows["value"].to_list()
    errors = [error or 0.0 for error in rows["stderr"].to_list()]
    if len(values) < 2:
        return None
    peak = max(range(len(values)), key=values.__getitem__)
    newest = values[-1]
    fall = values[peak] - newest
    if newest > _SHARE * values[peak] or fall <= _STDERRS * math.hypot(errors[peak], errors[-1]):
        return None
    at = len(values) - 1
    while values[at - 1] <= _SHARE * values[peak]:
        at -= 1
    before, after = rows.row(at - 1, named=True), rows.row(at, named=True)
    return {
        "kind": "onset",
        "data": name,
        "site": site,
        "start": before["checkpoint"],
        "end": after["checkpoint"],
        "peak": values[peak],
        "peak_at": rows.row(peak, named=True)["checkpoint"],
        "newest": newest,
        "message": f"{name}: collapse begins between {before['checkpoint']} and "
        f"{after['checkpoint']}: the cdnv of {site} stays at half of its peak "
        f"({values[peak]:.3g} at {rows.row(peak, named=True)['checkpoint']}) or less from there on "
        f"(newest: {newest:.3g}).",
    }
