"""When attention sinks emerge in a series, as a finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from geoprobe.probes.spectral_phases import phase_findings

if TYPE_CHECKING:
    from geoprobe.probes.base import Findings
    from geoprobe.runs.folder import Run

LEAST_RATE = 0.05
"""A newest sink rate below this is not called a sink."""

_STDERRS = 2


def emergence_findings(run: Run) -> Findings:
    """The checkpoint from which on the sink rate stays at half of its newest value or more.

    The rate is that of the position where most attention rests in the end, the one with the largest
    newest rate on natural text; not of the primary sink, which is told by its norm, and in a young
    model changes from checkpoint to checkpoint. Nothing is said where it is below `LEAST_RATE`,
    where it has not risen by more than two combined standard errors since the first checkpoint, or
    where it has been high from the first one on.

    Args:
        run: The run so far.

    Returns:
        At most one finding.
    """
    frame = run.readings
    if "position" not in frame.columns or "text" not in frame.columns or not run.labels:
        return []
    rates = frame.filter(
        (pl.col("measure") == "sink_rate")
        & (pl.col("site") == "model")
        & (pl.col("text") == "natural")
        & pl.col("value").is_not_null()
    ).sort("index")
    last = rates.filter(pl.col("checkpoint") == run.labels[-1])
    if last.is_empty():
        return []
    last = last.sort("value", "position", descending=[True, False])
    position = int(last["position"][0])
    rates = rates.filter(pl.col("position") == position)
    if len(rates) < 2:
        return []
    values = rates["value"].to_list()
    errors = [error or 0.0 for error in rates["stderr"].to_list()]
    newest = values[-1]
    rise = newest - values[0]
    if newest < LEAST_RATE or rise <= _STDERRS * math.hypot(errors[0], errors[-1]):
        return []
    at = len(values) - 1
    while at > 0 and values[at - 1] >= newest / 2:
        at -= 1
    if at == 0:
        return []
    before, after = rates.row(at - 1, named=True), rates.row(at, named=True)
    found: dict[str, Any] = {
        "kind": "emergence",
        "position": position,
        "start": before["checkpoint"],
        "end": after["checkpoint"],
        "start_rate": before["value"],
        "end_rate": after["value"],
        "newest_rate": newest,
        "phase": _phase_at(run, int(after["index"])),
    }
    during = "" if found["phase"] is None else f", during the {found['phase']} phase"
    found["message"] = (
        f"Attention sinks emerge between {found['start']} and {found['end']}{during}: the sink "
        f"rate of position {position} goes from {before['value']:.3f} to {after['value']:.3f} "
        f"(newest: {newest:.3f})."
    )
    return [found]


def _phase_at(run: Run, index: int) -> str | None:
    """The phase of training that leads to a checkpoint, if spectra were measured too."""
    places = {label: i for i, label in enumerate(run.labels)}
    for phase in phase_findings(run):
        if places[phase["start"]] < index <= places[phase["end"]]:
            return str(phase["name"])
    return None
