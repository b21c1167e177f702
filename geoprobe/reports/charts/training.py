"""Measures over training, with its phases."""

from __future__ import annotations

from typing import Any

import altair as alt

from geoprobe.reports.charts.common import (
    BAND,
    READINGS,
    Where,
    axis_params,
    bounds,
    choices,
    common_pieces,
    convention_choice,
    fixed,
    panels,
    run_colour,
    said,
    spec_of,
    tooltip,
    training_x,
    value_y,
)
from geoprobe.reports.parts import Chart, Section, Source
from geoprobe.reports.subject import PHASES, Subject
from geoprobe.reports.theme import PHASE_COLOURS
from geoprobe.reports.words import TOKENS

_MANY = 60
"""Checkpoints above which points are drawn smaller, so that they do not hide the line."""
_PHASES = alt.NamedData("phases")


def training(subject: Subject) -> Section:
    """The first screen of a series: RankMe and alpha over training, the phases shaded."""
    conventions = convention_choice(subject, "rankme", "alpha")
    charts = [
        _over_training(subject, measure, by_convention=bool(conventions))
        for measure in ("rankme", "alpha")
        if measure in subject.measures
    ]
    if subject.several and subject.phases:
        charts.append(_phase_strip(subject))
    controls = [*choices(subject, "site", "tokens", "sinks"), *conventions]
    return Section("training", "RankMe and alpha over training", charts, controls, pair=True)


def others(subject: Subject) -> Section | None:
    """Every other measure over training, at one site."""
    measures = [m for m in subject.measures if m not in ("rankme", "alpha")]
    if not measures or not subject.is_series:
        return None
    layered = alt.layer(*_band(subject, alt.Chart(), "", thickness=1.5, size=18, most=5))
    row = 136 if subject.axis.kind == "ordinal" else 96  # slanting names take room
    pieces = common_pieces(subject)
    where: Where = {"measure": measures, "preferred": [1]}
    chart = Chart(
        "others",
        "Other measures over training",
        f"Each measure over training; {BAND}. Each panel has its own scale.",
        spec_of(panels(subject, layered, measures, row), *axis_params(subject.axis)),
        {"readings": fixed(subject, Source("readings", where, ("site", "tokens", "sinks")))},
        (pieces["site"], pieces["tokens"], pieces["sinks"]),
        width=900,
        marks_per_row=2,
    )
    return Section("others", chart.title, [chart], choices(subject, "site", "tokens", "sinks"))


def _over_training(subject: Subject, measure: str, *, by_convention: bool) -> Chart:
    title = subject.title(measure)
    drawn = _band(subject, alt.Chart(READINGS), title, thickness=2, size=38)
    where: Where = {"measure": [measure]}
    if not by_convention:
        where["preferred"] = [1]
    controls = ("site", "tokens", "sinks", "convention")
    sources = {"readings": fixed(subject, Source("readings", where, controls))}
    shaded = ""
    if subject.phases and not subject.several:
        drawn.insert(0, _shading(subject))
        sources["phases"] = Source("phases")
        shaded = f" Shaded: phases, found on {_ground(subject)}."
    pieces = common_pieces(subject)
    return Chart(
        f"training-{measure}",
        title,
        f"{title} over training, {said(subject, measure)}; {BAND}.{shaded}",
        spec_of(
            alt.layer(*drawn).properties(width="container", height=250),
            *axis_params(subject.axis),
        ),
        sources,
        (pieces["site"], pieces["tokens"], pieces["sinks"], ("convention", "")),
        marks_per_row=2,
    )


def _band(
    subject: Subject, chart: Any, title: str, *, thickness: float, size: int, most: int = 12
) -> list[Any]:
    """A line with its error band and points that tell what they are."""
    if max(len(run.labels) for run in subject.runs.values()) > _MANY:
        size //= 3
    base = bounds(chart)
    colour = run_colour(subject)
    x = training_x(subject.axis, most=most)
    place = alt.Tooltip("x:Q", title=subject.axis.field.replace("_", " "), format=",")
    tips = [place] if subject.axis.field != "index" else []
    return [
        base.mark_area(opacity=0.22).encode(
            x=x, y=value_y(title, "lo"), y2=alt.Y2("hi:Q"), **colour
        ),
        base.mark_line(strokeWidth=thickness).encode(x=x, y=value_y(title), **colour),
        base.mark_point(filled=True, size=size, opacity=1).encode(
            x=x, y=value_y(title), tooltip=tooltip(subject, *tips), **colour
        ),
    ]


def _ground(subject: Subject) -> str:
    """Sites and tokens that phases were found on."""
    grounds = dict.fromkeys(
        (str(p.get("site", subject.main_site)), str(p.get("tokens", "last")))
        for p in subject.phases
    )
    return "; ".join(f"{site}, {TOKENS.get(tokens, tokens)}" for site, tokens in grounds)


def _phase_scale(subject: Subject) -> alt.Scale:
    names = [name for name in PHASES if any(p["name"] == name for p in subject.phases)]
    return alt.Scale(domain=names, range=[PHASE_COLOURS[name] for name in names])


def _phase_tips() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("name:N", title="phase"),
        alt.Tooltip("start:N", title="from"),
        alt.Tooltip("end:N", title="to"),
        alt.Tooltip("change:Q", title="change of ln RankMe", format="+.3f"),
        alt.Tooltip("stderr:Q", title="standard error", format=".3f"),
        alt.Tooltip("z:Q", title="z", format="+.1f"),
    ]


def _shading(subject: Subject) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(_PHASES)
        .mark_rect(opacity=0.17)
        .encode(
            x=training_x(subject.axis, "x0"),
            x2=alt.X2("x1:Q"),
            fill=alt.Fill(
                "name:N",
                title=None,
                scale=_phase_scale(subject),
                legend=alt.Legend(orient="top", symbolOpacity=0.5, symbolType="square"),
            ),
            tooltip=_phase_tips(),
        )
    )
    return chart


def _phase_strip(subject: Subject) -> Chart:
    """The phases of several runs, one bar a run."""
    bars = (
        alt.Chart(_PHASES)
        .mark_bar(height=14, opacity=0.75)
        .encode(
            x=training_x(subject.axis, "x0"),
            x2=alt.X2("x1:Q"),
            y=alt.Y("run:N", sort=list(subject.runs), title=None, axis=alt.Axis(labelLimit=140)),
            color=alt.Color(
                "name:N",
                title=None,
                scale=_phase_scale(subject),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[alt.Tooltip("run:N", title="run"), *_phase_tips()],
        )
        .properties(width="container", height=24 * len(subject.runs) + 10)
    )
    return Chart(
        "phases",
        "Phases",
        f"Phases of each run, found on {_ground(subject)}.",
        spec_of(bars, *axis_params(subject.axis)),
        {"phases": Source("phases")},
    )
