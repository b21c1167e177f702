"""Neural collapse: over training, over depth, and the class means in front of the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import (
    BAND,
    BARS,
    axis_params,
    panels,
    site_x,
    spec_of,
    training_x,
)
from geoprobe.reports.collapse import absences, collapse_tables, data_sets, has_collapse, values
from geoprobe.reports.collapse_frames import COURSE, COURSE_LOG, DEPTH
from geoprobe.reports.parts import Chart, Section, Source, choice, place_control
from geoprobe.reports.subject import STDERRS, Subject
from geoprobe.reports.theme import LIGHT, RUN_COLOURS

Frames = Mapping[str, pl.DataFrame]

_NULL = "Dashed: the same of permuted labels, the null."
_PLACE = ("run", "place")
_MEASURED, _PREDICTED = RUN_COLOURS[:2]
_GUIDE = "#7a8087"
"""A grey that is told from light paper and from dark."""
_MANY_CLASSES = 12
"""More classes than these have a histogram of their cosines."""
_MOST_SAID = 4
"""Fits that are told in their panel."""
_HEIGHT = 300


def collapse(subject: Subject, frames: Frames) -> Section | None:
    """Measures over training and over depth; one run is shown at a time."""
    if not frames["collapse_depth"].height and not frames["collapse_course"].height:
        return None
    runs = frames["collapse_depth"]["run"].unique(maintain_order=True).to_list()
    places = subject.of_runs(runs).places()
    charts = []
    if any(len(subject.runs[name].labels) > 1 for name in runs):
        charts += _over_training(subject, frames)
    if frames["collapse_depth"]["site"].n_unique() > 1:
        charts.append(_over_depth(subject, frames, places[-1].label))
    tables = [
        replace(table, title=f"{name}: {table.title}" if subject.several else table.title)
        for name in runs
        for table in collapse_tables(subject.runs[name])
    ]
    controls = [*choice("run", "Run", runs, runs[0]), *place_control(places)]
    return Section("collapse", "Neural collapse", charts, controls, tables=tables)


def class_means(subject: Subject, frames: Frames) -> Section | None:
    """Angles and norms of class means; one data set of one run is shown at a time."""
    cosines = frames["collapse_cosines"]
    if not cosines.height:
        return None
    places = subject.of_runs(cosines["run"].unique().to_list()).places()
    shown = cosines["shown"].unique(maintain_order=True).to_list()
    pieces = (("place", places[-1].label), ("shown", shown[0]))
    charts = [_cosines(pieces)]
    if cosines["i"].max() >= _MANY_CLASSES:  # type: ignore[operator]
        charts.append(_angles(pieces))
    norms = frames["collapse_norms"]
    for of in ("means", "rows"):
        here = norms.filter(pl.col("of") == of)
        if here.height:
            charts.append(_norms(here, of, pieces))
    controls = [*choice("shown", "Class means of", shown, shown[0]), *place_control(places)]
    return Section("class-means", "Class means", charts, controls, pair=True)


def _sets(frame: pl.DataFrame) -> list[str]:
    names: list[str] = frame["data"].unique(maintain_order=True).to_list()
    return names


def _colour(frame: pl.DataFrame) -> dict[str, Any]:
    """Colour by data set, where there are several."""
    names = _sets(frame)
    if len(names) < 2:
        return {}
    return {
        "color": alt.Color(
            "data:N",
            title=None,
            scale=alt.Scale(domain=names, range=list(RUN_COLOURS)),
            legend=alt.Legend(orient="top", labelLimit=200, columns=4, symbolOpacity=1),
        )
    }


def _bounds(chart: Any) -> Any:
    """Adds the ends of the error band; the lower stays positive, as all these measures are."""
    error = f"{STDERRS} * (isValid(datum.stderr) ? datum.stderr : 0)"
    return chart.transform_calculate(
        lo=f"max(datum.value - {error}, datum.value / 10)", hi=f"datum.value + {error}"
    )


def _line(name: str) -> str:
    return f"datum.line == '{name}'"


def _tips(*more: alt.Tooltip) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("data:N", title="data"),
        alt.Tooltip("line:N", title="labels"),
        alt.Tooltip("checkpoint:N", title="checkpoint"),
        alt.Tooltip("site:N", title="site"),
        *more,
        alt.Tooltip("value:Q", title="value", format=".5~g"),
        alt.Tooltip("stderr:Q", title="standard error", format=".3~g"),
        alt.Tooltip("n:Q", title="n", format=","),
    ]


def _lines(x: alt.X, frame: pl.DataFrame, *, log: bool, bars: bool) -> list[Any]:
    """Values with their errors and, dashed, those of permuted labels."""
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True)

    def y(field: str = "value") -> alt.Y:
        # A log scale leaves labels empty where they would crowd.
        short = "datum.label ? format(datum.value, datum.value < 1000 ? '~g' : '~s') : ''"
        axis = alt.Axis(tickCount=4, labelExpr=short) if log else alt.Axis(tickCount=5)
        return alt.Y(f"{field}:Q", title="", scale=scale, axis=axis)

    colour = _colour(frame)
    given = _bounds(alt.Chart().transform_filter(_line("given")))
    null = alt.Chart().transform_filter(_line("permuted"))
    grey = LIGHT["line"]
    ends = (
        given.mark_rule().encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q"), **colour)
        if bars
        else given.mark_area(opacity=0.22).encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q"), **colour)
    )
    dashed = null.mark_line(color=grey, strokeDash=[4, 3], strokeWidth=1.5)
    return [
        ends,
        dashed.encode(x=x, y=y(), detail=alt.Detail("data:N")),
        null.mark_point(color=grey, filled=True, size=12, opacity=1).encode(
            x=x, y=y(), tooltip=_tips()
        ),
        given.mark_line(strokeWidth=1.5).encode(x=x, y=y(), **colour),
        given.mark_point(filled=True, size=20, opacity=1).encode(
            x=x, y=y(), tooltip=_tips(), **colour
        ),
    ]


def _over_training(subject: Subject, frames: Frames) -> list[Chart]:
    frame = frames["collapse_course"]
    x = training_x(subject.axis, most=5)
    row = 136 if subject.axis.kind == "ordinal" else 96  # slanting names take room
    absent = dict.fromkeys(
        why
        for run in subject.runs.values()
        if has_collapse(run)
        for here in [values(run, run.labels[-1])]
        for data in data_sets(here)
        for why in absences(here, data)
    )
    found = []
    for name, title, measures, says in (
        (
            "collapse-nc1",
            "NC1 over training",
            COURSE_LOG,
            "How much features vary within their classes, against how far class means are apart, "
            "on log scales, in front of the classifier: under collapse they fall towards 0.",
        ),
        (
            "collapse-nc2",
            "NC2 to NC4 over training",
            COURSE,
            "How far class means are from a simplex frame (norms, angles, both at once), from the "
            "classifier's rows, and how often the nearest class mean and the network disagree; 0 "
            "is collapse. Dotted: the floor where there are more classes than dimensions allow.",
        ),
    ):
        there = set(frame["measure"])
        some = [m for m in measures if m in there]
        if not some:
            continue
        layers = _lines(x, frame, log=measures is COURSE_LOG, bars=False)
        sources = {"readings": Source("collapse_course", {"measure": some}, ("run",))}
        caption = f"{says} {_NULL} {BAND[0].upper()}{BAND[1:]}."
        if measures is COURSE_LOG and frames["collapse_onset"].height:
            layers.insert(0, _onset(subject, frame))
            sources["onset"] = Source("collapse_onset", {}, ("run",))
            caption += " Shaded: where collapse begins."
        if measures is COURSE:
            floor = alt.Chart().transform_filter(_line("floor"))
            layers.insert(
                0,
                floor.mark_line(color=_GUIDE, strokeDash=[1, 3], strokeWidth=2).encode(
                    x=x, y=alt.Y("value:Q"), detail=alt.Detail("data:N")
                ),
            )
            caption = " ".join([caption, *absent])
        chart = panels(subject, alt.layer(*layers), some, row)
        found.append(
            Chart(
                name,
                title,
                caption,
                spec_of(chart, *axis_params(subject.axis)),
                sources,
                (("", title), ("run", "")),
                width=900,
                marks_per_row=2,
            )
        )
    return found


def _onset(subject: Subject, frame: pl.DataFrame) -> Any:
    return (
        alt.Chart(alt.NamedData("onset"))
        .mark_rect(opacity=0.15)
        .encode(
            x=training_x(subject.axis, "x0", most=5),
            x2=alt.X2("x1:Q"),
            tooltip=[alt.Tooltip("said:N", title="onset")],
            **_colour(frame),
        )
    )


def _over_depth(subject: Subject, frames: Frames, first: str) -> Chart:
    frame = frames["collapse_depth"]
    there = set(frame["site"])
    sites = [site for site in subject.every_site if site in there]
    x = site_x(sites, 7)
    layers = _lines(x, frame, log=True, bars=True)
    y = alt.Y("value:Q", scale=alt.Scale(type="log"))
    fit = alt.Chart().transform_filter(_line("fit"))
    layers.append(
        fit.mark_line(strokeWidth=1, color=_GUIDE).encode(x=x, y=y, detail=alt.Detail("data:N"))
    )
    names = _sets(frame)
    for place in range(min(len(names), _MOST_SAID)):
        said = fit.transform_filter(f"datum.set == {place} && isValid(datum.said)")
        texts = "datum.data + ': ' + datum.said" if len(names) > 1 else "datum.said"
        layers.append(
            said.transform_calculate(text=texts)
            .mark_text(align="left", baseline="bottom", fontSize=10.5, limit=240)
            .encode(x=alt.value(5), y=alt.value(137 - 13 * place), text=alt.Text("text:N"))
        )
    return Chart(
        "collapse-depth",
        "NC1 over depth",
        "Variability within classes against that between them at each site, on log scales. "
        "Separation fuzziness is to fall by the same factor from layer to layer; the thin line is "
        f"the fit of that law, its factor and R² beside it. {_NULL} "
        f"{BARS[0].upper()}{BARS[1:]}. Each panel has its own scale.",
        spec_of(panels(subject, alt.layer(*layers), DEPTH)),
        {"readings": Source("collapse_depth", {}, _PLACE)},
        (("", "NC1 over depth"), ("run", ""), ("place", first)),
        width=900,
        marks_per_row=2,
    )


def _cosines(pieces: Sequence[tuple[str, str]]) -> Chart:
    def axis(labels: int) -> alt.Axis:
        return alt.Axis(ticks=False, domain=False, labelOverlap="greedy", labelLimit=labels)

    rect = (
        alt.Chart(alt.NamedData("cosines"))
        .mark_rect()
        .encode(
            x=alt.X(
                "column:N",
                sort=alt.EncodingSortField("j", op="min"),
                title=None,
                axis=axis(70),
            ),
            y=alt.Y("row:N", sort=alt.EncodingSortField("i", op="min"), title=None, axis=axis(80)),
            color=alt.Color(
                "beyond:Q",
                title=["cosine", "− target"],
                scale=alt.Scale(scheme="blueorange", domain=[-1, 1], domainMid=0, clamp=True),
                legend=alt.Legend(gradientLength=140, tickCount=5),
            ),
            tooltip=[
                alt.Tooltip("row:N", title="class"),
                alt.Tooltip("column:N", title="and class"),
                alt.Tooltip("cosine:Q", title="cosine", format=".3f"),
                alt.Tooltip("beyond:Q", title="beyond the target", format="+.3f"),
            ],
        )
    )
    said = (
        alt.Chart(alt.NamedData("target"))
        .mark_text(align="left", baseline="bottom", fontSize=11)
        .encode(x=alt.value(0), y=alt.value(-4), text=alt.Text("said:N"))
    )
    return Chart(
        "collapse-cosines",
        "Cosines of class means",
        "Between the means of each two classes, taken from the unweighted mean of class means; the "
        "largest class first. "
        "White is -1/(C - 1), what a simplex frame has for all pairs: under collapse "
        "all is white but the diagonal. Orange: closer than that; blue: further apart.",
        spec_of(alt.layer(rect, said).properties(width="container", height=_HEIGHT)),
        {
            "cosines": Source("collapse_cosines", {}, ("shown", "place")),
            "target": Source("collapse_target", {}, ("shown", "place")),
        },
        (("", "Cosines of class means"), *pieces),
    )


def _angles(pieces: Sequence[tuple[str, str]]) -> Chart:
    bars = (
        alt.Chart(alt.NamedData("angles"))
        .mark_bar(opacity=0.8)
        .encode(
            x=alt.X("low:Q", bin="binned", title="cosine", scale=alt.Scale(domain=[-1, 1])),
            x2=alt.X2("high:Q"),
            y=alt.Y("pairs:Q", title="pairs of classes"),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".2f"),
                alt.Tooltip("high:Q", title="to", format=".2f"),
                alt.Tooltip("pairs:Q", title="pairs", format=","),
            ],
        )
    )
    rule = (
        alt.Chart(alt.NamedData("target"))
        .mark_rule(color=_PREDICTED, strokeWidth=2.5)
        .encode(x=alt.X("target:Q"), tooltip=[alt.Tooltip("target:Q", format=".4f")])
    )
    return Chart(
        "collapse-angles",
        "Distribution of the cosines",
        "How many pairs of the same classes have which cosine; the line is the target, onto which "
        "all bars move under collapse.",
        spec_of(alt.layer(bars, rule).properties(width="container", height=_HEIGHT)),
        {
            "angles": Source("collapse_angles", {}, ("shown", "place")),
            "target": Source("collapse_target", {}, ("shown", "place")),
        },
        (("", "Distribution of the cosines"), *pieces),
    )


def _norms(norms: pl.DataFrame, of: str, pieces: Sequence[tuple[str, str]]) -> Chart:
    predicted = "predicted" in set(norms["line"])
    what = "Norms of the classifier's rows" if of == "rows" else "Norms of class means"
    base = alt.Chart(alt.NamedData("norms")).encode(
        x=alt.X(
            "rows:Q",
            title="rows of the class (log scale)",
            scale=alt.Scale(type="log", nice=False, padding=8),
            axis=alt.Axis(grid=False, tickCount=5, format="~s"),
        ),
        y=alt.Y("norm:Q", title="norm", scale=alt.Scale(zero=True)),
        tooltip=[
            alt.Tooltip("name:N", title="class"),
            alt.Tooltip("rows:Q", title="rows", format=","),
            alt.Tooltip("line:N", title="norm of"),
            alt.Tooltip("norm:Q", title="norm", format=".4~g"),
        ],
    )
    layers = [
        base.transform_filter(_line("given")).mark_point(
            filled=True, size=36, opacity=0.6, color=_MEASURED
        )
    ]
    if predicted:
        frame = base.transform_filter(_line("predicted"))
        layers += [
            frame.mark_line(strokeWidth=1, color=_PREDICTED),
            frame.mark_point(filled=False, size=52, color=_PREDICTED, opacity=1),
        ]
    centred = of == "means" and not predicted
    caption = (
        "One point a class: balanced classes collapse to equal norms, and of imbalanced ones the "
        "smallest shrink first."
        + (" Class means are taken from their unweighted mean." if centred else "")
        + (
            " Hollow: what the weight decays predict, scaled to the same total"
            + ("; class means are uncentred, as the prediction is." if of == "means" else ".")
            if predicted
            else ""
        )
    )
    return Chart(
        f"collapse-norms-{of}",
        what,
        caption,
        spec_of(alt.layer(*layers).properties(width="container", height=220)),
        {"norms": Source("collapse_norms", {"of": [of]}, ("shown", "place"))},
        (("", what), *pieces),
    )
