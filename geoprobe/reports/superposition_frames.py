"""What the charts of superposition draw: one row a mark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from geoprobe.measures.superposition import PLATEAUS
from geoprobe.reports.features_frames import frames_of, schema
from geoprobe.reports.lookup import findings_at
from geoprobe.reports.superposition import (
    ACTIVATIONS,
    NAME,
    WEIGHTS,
    Values,
    has_superposition,
    kind_and_place,
    places_at,
    values,
)

if TYPE_CHECKING:
    from geoprobe.reports.subject import Subject
    from geoprobe.runs.folder import Run

    Rows = list[dict[str, Any]]

MOST_BARS = 60_000
"""Bars of all histograms together; where there would be more, only the newest checkpoint's."""
_NAMES = {1 / 2: "1/2 digon", 2 / 3: "2/3 triangle", 2 / 5: "2/5 pentagon"}
_NAMES |= {
    3 / 4: "3/4 tetrahedron",
    3 / 8: "3/8 square antiprism",
    1.0: "1 alone",
    0.0: "0 not represented",
}
_BOUNDS = {
    "dimensionality_sum": "matrix_rank",
    "interference": "welch_bound",
    "coherence": "welch_bound",
}
_VALUES = schema("of site kind place measure line", "x value stderr", "n")
_FRAMES = {
    "superposition_bars": schema("site", "low high", "features"),
    "superposition_means": schema("site what", "value"),
    "superposition_gathered": schema("site said", "value"),
    "superposition_plateaus": schema("name", "value"),
}


def superposition_frames(subject: Subject) -> dict[str, pl.DataFrame]:
    """The tables behind the charts; `line` is `given`, `null` or `bound`."""
    rows: dict[str, Rows] = {name: [] for name in _FRAMES}
    runs = {name: run for name, run in subject.runs.items() if has_superposition(run)}
    if runs:
        rows["superposition_plateaus"] = [
            {"value": value, "name": _NAMES[value]} for value in sorted(PLATEAUS.values())
        ]
    marks = [_marks(subject, name) for name in runs]
    every = [(name, place) for name, run in runs.items() for place in range(len(run.labels))]
    newest = [(name, len(run.labels) - 1) for name, run in runs.items()]
    # No more checkpoints are read than there is room for.
    bars = list(islice(_of_matrices(runs, every), MOST_BARS + 1))
    shown = every
    if len(bars) > MOST_BARS:
        shown, bars = newest, list(_of_matrices(runs, newest))
    rows["superposition_bars"] = bars
    for name, place in shown:
        run, label = runs[name], runs[name].labels[place]
        at = {"run": name, "checkpoint": label, "index": place}
        rows["superposition_means"] += [{**at, **row} for row in _means(values(run, label))]
        rows["superposition_gathered"] += [
            {
                **at,
                "site": f["site"],
                "value": f["dimensionality"],
                "said": f"{100 * f['share']:.0f} % here",
            }
            for f in findings_at(run, label, "plateau")
        ]
    found = {"superposition_values": pl.concat([pl.DataFrame(schema=_VALUES), *marks])}
    return found | frames_of(rows, _FRAMES)


def _marks(subject: Subject, name: str) -> pl.DataFrame:
    """Values of a run, their nulls and their bounds."""
    run = subject.runs[name]
    frame = run.readings.filter(pl.col("probe") == NAME)
    of = ["of", "site", "measure", "line", "convention"]
    lines = [
        pl.col(c).cast(pl.String).replace("", None) for c in ("rows", "basis") if c in frame.columns
    ]
    frame = frame.with_columns(line=pl.coalesce(*lines, pl.lit("given"))).unique(
        ["index", *of], keep="first", maintain_order=True
    )
    titles = {"weights": WEIGHTS, "activations": ACTIVATIONS}
    titled = [(of, m, title) for of, measures in titles.items() for m, title in measures.items()]
    sites = frame["site"].unique(maintain_order=True).to_list()
    places = [(site, *kind_and_place(site)) for site in sites]
    there = pl.col("value").is_not_null()
    given = (
        frame.filter(there)
        .join(_table(titled, "of", "measure", "title"), on=["of", "measure"], maintain_order="left")
        .with_row_index("row")
    )
    bounds = (
        given.filter(pl.col("line") == "given")
        .join(_table(list(_BOUNDS.items()), "measure", "bound"), on="measure")
        .join(
            frame.filter(there & (pl.col("line") == "given") & (pl.col("convention") == "exact")),
            left_on=["index", "of", "site", "bound"],
            right_on=["index", "of", "site", "measure"],
            suffix=" of bound",
        )
    )
    least = pl.col("value of bound")
    bounds = bounds.with_columns(
        value=pl.when(pl.col("measure") == "coherence").then(least.sqrt()).otherwise(least),
        stderr=pl.lit(None, pl.Float64),
        line=pl.lit("bound"),
    ).select(given.columns)
    line = pl.when(pl.col("line").is_in(["given", "bound"])).then("line").otherwise(pl.lit("null"))
    x = pl.Series([subject.x_of(run, index) for index in range(len(run.labels))], dtype=pl.Float64)
    return (
        # A bound stands behind the value that it is of.
        pl.concat([given, bounds])
        .sort("row", maintain_order=True)
        .join(_table(places, "site", "kind", "place"), on="site", maintain_order="left")
        .with_columns(
            run=pl.lit(name), measure="title", line=line, x=pl.lit(x).gather(pl.col("index"))
        )
        .select(list(_VALUES))
    )


def _table(rows: list[Any], *names: str) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _of_matrices(runs: dict[str, Run], places: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """How many features of a matrix have which dimensionality; fewer features, wider bins."""
    for name, place in places:
        run, label = runs[name], runs[name].labels[place]
        at = {"run": name, "checkpoint": label, "index": place}
        arrays = run.arrays(label)
        for site in places_at(values(run, label), "weights"):
            counts = arrays.get(f"{NAME}/{site}/dimensionality_counts")
            if counts is None:
                continue
            total = int(counts.sum())
            bins = next(b for b, most in ((50, 500), (100, 5000), (200, math.inf)) if total <= most)
            if len(counts) % bins == 0:
                counts = np.asarray(counts).reshape(bins, -1).sum(1)
            for one in np.flatnonzero(counts).tolist():
                yield {
                    **at,
                    "site": site,
                    "low": round(one / len(counts), 4),
                    "high": round((one + 1) / len(counts), 4),
                    "features": int(counts[one]),
                }


def _means(here: Values) -> Iterator[dict[str, Any]]:
    for at, row in here.items():
        if at.measure == "dimensionality" and row["value"] is not None:
            what = "mean" if at.line == "given" else "mean of Gaussian rows"
            yield {"site": at.site, "what": what, "value": float(f"{row['value']:.5g}")}
