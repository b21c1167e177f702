"""A check: before and after at every site, and how many readings passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from geoprobe.reports.charts.common import PLAIN, spec_of
from geoprobe.reports.check_frames import PERCENT, STATUSES, VALUES, check_table
from geoprobe.reports.parts import Chart, Section, Source, choice
from geoprobe.reports.subject import STDERRS

if TYPE_CHECKING:
    from geoprobe.checks.verdict import Verdict

_COLOURS = {"missing": "#CC79A7", "failed": "#D55E00", "moved": "#2f8fd0", "same": "#9aa0a6"}
"""Told apart with any colour vision, and from light and dark paper; the shapes say it, too."""
_SHAPES = {"missing": "cross", "failed": "diamond", "moved": "circle", "same": "circle"}
_LONG = 9
"""Letters of a place that stand upright under an axis."""


def check(verdict: Verdict | None, frames: Mapping[str, pl.DataFrame]) -> Section | None:
    """The section; None without a verdict. It is there even if it has no chart."""
    if verdict is None:
        return None
    charts, controls, points = [], [], frames["check_points"]
    if points.height:
        scales = [scale for scale in (PERCENT, VALUES) if scale in set(points["scale"])]
        controls = choice("scale", "Axis", scales, scales[0])
        charts.append(_dumbbells(points, scales[0]))
    if frames["check_counts"].height:
        charts.append(_counts(frames["check_counts"]))
    return Section("check", "Check", charts, controls, tables=[check_table(verdict)])


def _scales() -> tuple[alt.Color, alt.Shape]:
    names = list(STATUSES)
    legend = alt.Legend(orient="top", symbolOpacity=1, columns=4)
    return (
        alt.Color(
            "status:N",
            title=None,
            scale=alt.Scale(domain=names, range=[_COLOURS[name] for name in names]),
            legend=legend,
        ),
        alt.Shape(
            "status:N",
            title=None,
            scale=alt.Scale(domain=names, range=[_SHAPES[name] for name in names]),
            legend=legend,
        ),
    )


def _dumbbells(points: pl.DataFrame, scale: str) -> Chart:
    colour, shape = _scales()
    short = all(len(place) <= _LONG for place in points["place"])
    x = alt.X(
        "place:N",
        sort=alt.EncodingSortField("order", op="min"),
        title="site (blocks by number)" if short else "site",
        axis=alt.Axis(
            labelAngle=0 if short else -30,
            labelOverlap="greedy",
            labelSeparation=4,
            labelLimit=90,
            grid=False,
        ),
    )

    def y(field: str) -> alt.Y:
        axis = alt.Axis(tickCount=5, labelExpr=PLAIN)
        return alt.Y(f"{field}:Q", title="", scale=alt.Scale(zero=False), axis=axis)

    tips = [
        alt.Tooltip("site:N", title="site"),
        alt.Tooltip("keys:N", title="keys"),
        alt.Tooltip("status:N", title="status"),
        alt.Tooltip("was:N", title="before"),
        alt.Tooltip("now:N", title="after"),
        alt.Tooltip("change:N", title="change"),
        alt.Tooltip("percent:N", title="%"),
        alt.Tooltip("sigmas:N", title="standard errors"),
        alt.Tooltip("floors:N", title="x floor"),
        alt.Tooltip("why:N", title="why"),
    ]
    base = alt.Chart()
    missing = base.transform_filter("datum.status == 'missing'")
    there = base.transform_filter("datum.status != 'missing' && isValid(datum.before)")
    both = there.transform_filter("isValid(datum.after)")
    hollow = there.mark_point(filled=False, size=30, strokeWidth=1.3, opacity=1, shape="circle")
    filled = both.mark_point(filled=True, size=48, opacity=1)
    # What is missing has one end, if any.
    end = missing.transform_calculate(end="isValid(datum.before) ? datum.before : datum.after")
    layers = [
        there.transform_filter("isValid(datum.lo)")
        .mark_bar(width=8, opacity=0.35, color=_COLOURS["same"])
        .encode(x=x, y=y("lo"), y2=alt.Y2("hi:Q")),
        both.mark_rule(strokeWidth=2).encode(
            x=x, y=y("before"), y2=alt.Y2("after:Q"), color=colour
        ),
        hollow.encode(x=x, y=y("before"), color=colour, tooltip=tips),
        filled.encode(x=x, y=y("after"), color=colour, shape=shape, tooltip=tips),
        end.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y("end"), color=colour, shape=shape, tooltip=tips
        ),
    ]
    panels: list[str] = points["panel"].unique(maintain_order=True).to_list()
    chart: Any = (
        alt.layer(*layers)
        .properties(width=250, height=150)
        .facet(
            facet=alt.Facet(
                "panel:N",
                title=None,
                sort=panels,
                header=alt.Header(labelLimit=280, labelAnchor="start", labelAlign="left"),
            ),
            columns=3,
            data=alt.NamedData("points"),
            bounds="flush",
            spacing={"row": 96 if short else 124, "column": 58},
        )
        .resolve_scale(x="independent", y="independent")
        .resolve_axis(x="independent")
    )
    many = "" if len(panels) < 2 else " Each panel has its own scale."
    return Chart(
        "check-changes",
        "Before and after",
        "The measures that moved most, at every site: hollow is the baseline, filled is now. Grey "
        f"bars: ± {STDERRS} standard errors of the difference about the baseline. Percent are of "
        "the baseline's value. Of several heads or positions of a site, the one that moved most."
        f"{many}",
        spec_of(chart),
        {"points": Source("check_points", {}, ("scale",))},
        (("", "Before and after"), ("scale", scale)),
        width=900,
        marks_per_row=4,
    )


def _counts(counts: pl.DataFrame) -> Chart:
    x = alt.X(
        "status:N",
        sort=list(STATUSES),
        title=None,
        axis=alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False),
    )
    y = alt.Y(
        "name:N",
        sort=alt.EncodingSortField("order", op="min"),
        title=None,
        axis=alt.Axis(labelLimit=160, ticks=False, domain=False),
    )
    base = alt.Chart(alt.NamedData("counts"))
    names = list(STATUSES)
    rect = base.mark_rect(cornerRadius=2).encode(
        x=x,
        y=y,
        color=alt.Color(
            "status:N",
            scale=alt.Scale(domain=names, range=[_COLOURS[name] for name in names]),
            legend=None,
        ),
        opacity=alt.Opacity(
            "share:Q", scale=alt.Scale(domain=[0, 1], range=[0.0, 0.55]), legend=None
        ),
        tooltip=[
            alt.Tooltip("name:N", title="measure"),
            alt.Tooltip("status:N", title="status"),
            alt.Tooltip("readings:Q", title="readings", format=","),
            alt.Tooltip("share:Q", title="of the measure", format=".1%"),
        ],
    )
    text = (
        base.transform_filter("datum.readings > 0")
        .mark_text(fontSize=11)
        .encode(x=x, y=y, text=alt.Text("readings:Q", format=","))
    )
    height = 21 * counts["name"].n_unique()
    return Chart(
        "check-counts",
        "Readings by measure",
        "How many readings of each measure have which status, the worst first; the stronger the "
        "colour, the larger the share.",
        spec_of(alt.layer(rect, text).properties(width=180, height=height)),
        {"counts": Source("check_counts")},
        (("", "Readings by measure"),),
        width=400,
    )
