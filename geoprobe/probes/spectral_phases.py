"""Training phases of a measured series, as findings (Li et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from geoprobe.measures.phases import phases

if TYPE_CHECKING:
    import polars as pl

    from geoprobe.probes.base import Findings
    from geoprobe.runs.folder import Run

_LEAST_CHECKPOINTS = 3


def phase_findings(run: Run) -> Findings:
    """The phases of `final` by RankMe of last tokens.

    Where `final` or last tokens were not measured the deepest site and the first token choice
    stand in; the finding says which. RankMe is under the run's first convention that has one.

    Args:
        run: The run so far.

    Returns:
        One finding a significant phase.
    """
    import polars as pl

    frame = run.readings.filter(pl.col("probe") == "spectrum")
    if frame.is_empty():
        return []
    sites = [site for site in run.sites if site in set(frame["site"])]
    site = "final" if "final" in sites else sites[-1]
    choices = frame["tokens"].unique(maintain_order=True).to_list()
    tokens = "last" if "last" in choices else choices[0]
    frame = frame.filter(
        pl.col("site") == site, pl.col("tokens") == tokens, pl.col("sinks") == "in"
    )
    ranks = frame.filter(pl.col("measure") == "rankme")
    if ranks.is_empty():
        return []
    convention = ranks["convention"][0]
    ranks = ranks.filter(pl.col("convention") == convention)
    if len(ranks) < _LEAST_CHECKPOINTS:
        return []
    alphas = frame.filter(pl.col("measure") == "alpha", pl.col("convention") == convention)
    alpha_of = dict(zip(alphas["checkpoint"], alphas["value"], strict=True))
    at, x = _positions(ranks)
    values, errors = ranks["value"].to_list(), ranks["stderr"].to_list()
    found = phases(
        x,
        [None if v is None else math.log(v) for v in values],
        [None if v is None or e is None else e / v for v, e in zip(values, errors, strict=True)],
        [alpha_of.get(label) for label in ranks["checkpoint"]],
    )
    findings: list[dict[str, Any]] = []
    for phase in found:
        start, end = ranks.row(phase.start, named=True), ranks.row(phase.end, named=True)
        findings.append(
            {
                "kind": "phase",
                "name": phase.name,
                "site": site,
                "tokens": tokens,
                "convention": convention,
                "x": at,
                "start": start["checkpoint"],
                "end": end["checkpoint"],
                **_end("start", start, alpha_of),
                **_end("end", end, alpha_of),
                "start_x": phase.start_x,
                "end_x": phase.end_x,
                "change": phase.change,
                "stderr": phase.stderr,
                "z": phase.z,
                "alpha_opposes": phase.alpha_opposes,
                "significant": phase.significant,
            }
        )
    return findings


def _end(side: str, row: Mapping[str, Any], alpha_of: Mapping[str, float | None]) -> dict[str, Any]:
    """What is known of the checkpoint that bounds a phase."""
    return {
        f"{side}_step": row["step"],
        f"{side}_tokens": row["training_tokens"],
        f"{side}_rankme": row["value"],
        f"{side}_alpha": alpha_of.get(row["checkpoint"]),
    }


def _positions(ranks: pl.DataFrame) -> tuple[str, list[float]]:
    """What orders the checkpoints, and x = ln(1 + it); their order alone where numbers restart."""
    for name, column in (("tokens", "training_tokens"), ("step", "step")):
        numbers = ranks[column].to_list()
        x = [] if None in numbers else [math.log1p(n) for n in numbers]
        if x and all(b > a for a, b in pairwise(x)):  # of huge numbers the logarithms may be equal
            return name, x
    return "order", [float(i) for i in range(len(ranks))]
