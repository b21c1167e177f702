"""Eigenvalue spectra of a subject, thinned to what an eye can tell apart, with their fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from geoprobe.errors import UsageError
from geoprobe.measures import Undefined, alpha, numerical_rank
from geoprobe.measures.powerlaw import FIT_RANGES
from geoprobe.reports.subject import Place, Subject, thinned

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHECKPOINTS = 24
MOST_CHECKPOINTS_OF_SEVERAL = 8
MOST_RANKS = 120


class Spectra(NamedTuple):
    """Thinned spectra.

    Attributes:
        table: `run`, `checkpoint`, `index`, `site`, `tokens`, `sinks`, `rank`, `share` (the
            eigenvalue over the sum of all of them).
        fits: The two ends of each fitted line: the same columns, `rank`, `share`, and `alpha`,
            `r2`, `first`, `last`, `convention`.
        places: The checkpoints shown.
        sites: The sites shown.
    """

    table: pl.DataFrame
    fits: pl.DataFrame
    places: list[Place]
    sites: list[str]


def gather(subject: Subject) -> Spectra:
    """Reads the spectra that the chart shows: at most 24 checkpoints, and sites over the depth."""
    most = MOST_CHECKPOINTS_OF_SEVERAL if subject.several else MOST_CHECKPOINTS
    places = subject.places(most)
    sites = _sites(subject)
    wanted = {name: sorted({p.at[name] for p in places if name in p.at}) for name in subject.runs}
    rows: list[dict[str, object]] = []
    lines: list[dict[str, object]] = []
    for name, run in subject.runs.items():
        for index in wanted[name]:
            label = run.labels[index]
            arrays = run.arrays(label)
            for site in sites:
                for tokens in subject.tokens:
                    for sinks in subject.sinks:
                        found = arrays.get(f"spectrum/{site}/{tokens}/{sinks}/eigenvalues")
                        if found is None:
                            continue
                        what = {
                            "run": name,
                            "checkpoint": label,
                            "index": index,
                            "site": site,
                            "tokens": tokens,
                            "sinks": sinks,
                        }
                        _add(rows, lines, what, np.asarray(found, dtype=np.float64), subject)
    return Spectra(_frame(rows, _ROW), _frame(lines, _LINE), places, sites)


def _sites(subject: Subject) -> list[str]:
    """First, middle and last of the sites, the main one among them; all where they are few."""
    sites = subject.sites
    if len(sites) <= 4 or (len(sites) <= 12 and not subject.is_series):
        return list(sites)
    kept = {sites[i] for i in thinned(len(sites), 4)} | {subject.main_site}
    return [site for site in sites if site in kept]


def _add(
    rows: list[dict[str, object]],
    lines: list[dict[str, object]],
    what: dict[str, object],
    eigenvalues: NDArray[np.float64],
    subject: Subject,
) -> None:
    total = float(eigenvalues.sum())
    rank = numerical_rank(eigenvalues) if total > 0 else 0
    if not rank:
        return
    ranks = np.unique(np.rint(np.geomspace(1, rank, MOST_RANKS)).astype(int))
    rows += [
        {**what, "rank": r, "share": _rounded(eigenvalues[r - 1] / total)} for r in ranks.tolist()
    ]
    convention = next((c for c in subject.conventions("alpha") if c in FIT_RANGES), "exact")
    try:
        fit = alpha(eigenvalues, convention)
    except (Undefined, UsageError):
        return
    # The line goes through the weighted mean of the fitted points, as in the fit itself.
    x = np.log(np.arange(fit.first, fit.last + 1, dtype=np.float64))
    y = np.log(eigenvalues[fit.first - 1 : fit.last] / total)
    weights = np.exp(-x) / np.exp(-x).sum()
    intercept = float(weights @ y) + fit.alpha * float(weights @ x)
    lines += [
        {
            **what,
            "rank": end,
            "share": _rounded(np.exp(intercept - fit.alpha * np.log(end))),
            "alpha": _rounded(fit.alpha),
            "r2": None if fit.r2 is None else _rounded(fit.r2),
            "first": fit.first,
            "last": fit.last,
            "convention": convention,
        }
        for end in (fit.first, fit.last)
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


_WHAT = {
    "run": pl.String,
    "checkpoint": pl.String,
    "index": pl.Int64,
    "site": pl.String,
    "tokens": pl.String,
    "sinks": pl.String,
    "rank": pl.Int64,
    "share": pl.Float64,
}
_ROW = pl.Schema(_WHAT)
_LINE = pl.Schema(
    {
        **_WHAT,
        "alpha": pl.Float64,
        "r2": pl.Float64,
        "first": pl.Int64,
        "last": pl.Int64,
        "convention": pl.String,
    }
)


def _frame(rows: list[dict[str, object]], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema)
