"""Measures over the layers: the heatmap, profiles, and what dropping sinks changes."""

from __future__ import annotations

from typing import Any

import altair as alt

from geoprobe.reports.charts.common import (
    BARS,
    READINGS,
    Where,
    bounds,
    choices,
    common_pieces,
    convention_choice,
    fixed,
    is_path,
    panels,
    run_colour,
    run_facet,
    said,
    shortened,
    shortened_label,
    site_x,
    spec_of,
    tooltip,
    value_y,
)
from geoprobe.reports.parts import MEASURE, Chart, Section, Source, place_control
from geoprobe.reports.subject import Subject
from geoprobe.reports.words import SINKS, compact

_NOT_PROFILED = ("alpha_r2_13_100", "intrinsic_dim_ml")
_SINK_COLOURS = {"in": "#0072B2", "out": "#D55E00"}


def heatmap(subject: Subject) -> Section:
    """Checkpoint by layer, any measure."""
    axis, several = subject.axis, subject.several
    first = next(iter(subject.runs.values()))
    key = {"training_tokens": "tokens", "step": "step", "index": "label"}[axis.field]
    names = [
        shortened(str(c[key])) if key == "label" else compact(c[key]) for c in first.checkpoints
    ]
    by_label = several or axis.field == "index"
    x = alt.X(
        "checkpoint:N" if several else "index:O",
        sort=alt.EncodingSortField("index", op="min") if several else "ascending",
        title="checkpoint" if by_label else axis.title.split(",")[0].split(" (")[0],
        axis=alt.Axis(
            labelOverlap="greedy",
            labelSeparation=5,
            ticks=False,
            labelAngle=-45 if by_label else 0,
            labelLimit=110,
            labelExpr=shortened_label() if several else "names[datum.value]",
        ),
    )
    rect = (
        alt.Chart(READINGS)
        .mark_rect()
        .encode(
            x=x,
            y=alt.Y(
                "site:N",
                sort=alt.EncodingSortField("order", op="min", order="descending"),
                title="site",
                axis=alt.Axis(labelLimit=140, labelOverlap="greedy"),
            ),
            color=alt.Color(
                "value:Q",
                title=None,
                scale=alt.Scale(scheme="viridis", zero=False),
                legend=alt.Legend(gradientLength=160, tickCount=5),
            ),
            tooltip=tooltip(subject, alt.Tooltip("reason:N", title="note")),
        )
    )
    count = max(1, len(subject.sites))
    height = max(90, min(26, max(11, 420 // count)) * count)
    if several:
        wide = max(160, 860 // min(len(subject.runs), 3) - 90)
        chart: Any = (
            rect.properties(width=wide, height=height)
            .facet(facet=run_facet(subject), columns=3)
            .resolve_scale(x="independent", y="independent")
        )
    else:
        chart = rect.properties(width="container", height=height)
    pieces = common_pieces(subject)
    source = Source("readings", {"preferred": [1]}, ("measure", "tokens", "sinks"))
    plate = Chart(
        "heatmap",
        "Checkpoint × layer",
        "One cell for each checkpoint and site, from the input (bottom) to the last layer (top). "
        "Blank cells are undefined; the table of readings says why.",
        spec_of(chart, *([] if several else [{"name": "names", "value": names}])),
        {"readings": fixed(subject, source)},
        (("measure", subject.title(subject.measures[0])), pieces["tokens"], pieces["sinks"]),
        width=900,
    )
    controls = choices(subject, "measure", "tokens", "sinks")
    return Section("heatmap", plate.title, [plate], controls)


def layers(subject: Subject) -> Section:
    """The first screen of a single checkpoint: RankMe and alpha at each site."""
    conventions = convention_choice(subject, "rankme", "alpha")
    pieces = common_pieces(subject)
    charts = []
    for measure in [m for m in ("rankme", "alpha") if m in subject.measures]:
        title = subject.title(measure)
        where: Where = {"measure": [measure]}
        if not conventions:
            where["preferred"] = [1]
        source = Source("readings", where, ("tokens", "sinks", "convention"))
        chart = _by_site(subject, alt.Chart(READINGS), title, size=42, labels=12)
        charts.append(
            Chart(
                f"layers-{measure}",
                title,
                f"{title} at each site, {said(subject, measure)}; {BARS}.",
                spec_of(chart.properties(width="container", height=250)),
                {"readings": fixed(subject, source)},
                (pieces["tokens"], pieces["sinks"], ("convention", "")),
                marks_per_row=2,
            )
        )
    controls = [*choices(subject, "tokens", "sinks"), *conventions]
    return Section("layers", "RankMe and alpha over the layers", charts, controls, pair=True)


def profile(subject: Subject) -> Section | None:
    """Every measure over the layers, at one moment of training."""
    measures = [m for m in subject.measures if m not in _NOT_PROFILED]
    if not subject.is_series:
        measures = [m for m in measures if m not in ("rankme", "alpha")]
    places = subject.places()
    if not measures or not places or len(subject.sites) < 2:
        return None
    where: Where = {"measure": measures, "preferred": [1]}
    pieces = common_pieces(subject)
    chart = Chart(
        "profile",
        "Measures over the layers",
        f"Each measure at each site of one checkpoint; {BARS}. Each panel has its own scale.",
        spec_of(panels(subject, _by_site(subject, alt.Chart(), "", size=22, labels=7), measures)),
        {"readings": fixed(subject, Source("readings", where, ("place", "tokens", "sinks")))},
        (("place", places[-1].label), pieces["tokens"], pieces["sinks"]),
        width=900,
        marks_per_row=2,
    )
    controls = [*place_control(places), *choices(subject, "tokens", "sinks")]
    return Section("profile", chart.title, [chart], controls)


def sinks(subject: Subject) -> Section | None:
    """Each measure with all tokens, and with sink tokens dropped, side by side."""
    places = subject.places()
    if len(subject.sinks) < 2 or not places:
        return None
    base = bounds(alt.Chart() if subject.several else alt.Chart(READINGS))
    names = [name for name in _SINK_COLOURS if name in subject.sinks]
    domain = alt.Scale(domain=names, range=[_SINK_COLOURS[name] for name in names])
    shapes = alt.Scale(domain=names, range=["circle", "diamond"])
    legend = alt.Legend(
        orient="top", labelExpr=f"datum.label == 'out' ? '{SINKS['out']}' : '{SINKS['in']}'"
    )
    colour = alt.Color("sinks:N", title=None, scale=domain, legend=legend)
    shape = alt.Shape("sinks:N", title=None, scale=shapes, legend=legend)
    x = site_x(subject.sites, 16)
    offset = alt.XOffset("sinks:N", scale=alt.Scale(domain=names, paddingOuter=0.5))
    layered = alt.layer(
        base.mark_rule().encode(
            x=x, xOffset=offset, y=value_y(MEASURE, "lo"), y2=alt.Y2("hi:Q"), color=colour
        ),
        base.mark_point(filled=True, size=48, opacity=1).encode(
            x=x,
            xOffset=offset,
            y=value_y(MEASURE),
            color=colour,
            shape=shape,
            tooltip=tooltip(subject, alt.Tooltip("sinks:N", title="sinks")),
        ),
    )
    if subject.several:
        chart: Any = layered.properties(width=380, height=220).facet(
            facet=run_facet(subject), columns=2, data=READINGS
        )
    else:
        chart = layered.properties(width="container", height=260)
    pieces = common_pieces(subject)
    source = Source("readings", {"preferred": [1]}, ("measure", "place", "tokens"))
    plate = Chart(
        "sinks",
        "With and without attention sinks",
        f"The same measure with all tokens, and with sink tokens dropped by the rule under "
        f"Warnings and rules; {BARS}.",
        spec_of(chart),
        {"readings": fixed(subject, source)},
        (("measure", subject.title("rankme")), ("place", places[-1].label), pieces["tokens"]),
        width=900,
        marks_per_row=2,
    )
    controls = [*choices(subject, "measure"), *place_control(places), *choices(subject, "tokens")]
    return Section("sinks", plate.title, [plate], controls)


def _by_site(subject: Subject, chart: Any, title: str, *, size: int, labels: int) -> Any:
    """Points with error bars at each site, joined where the sites are a path through a model."""
    base = bounds(chart)
    colour = run_colour(subject)
    x = site_x(subject.sites, labels)
    parts = [base.mark_rule().encode(x=x, y=value_y(title, "lo"), y2=alt.Y2("hi:Q"), **colour)]
    if is_path(subject.sites):
        parts.append(
            base.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=value_y(title), **colour)
        )
    parts.append(
        base.mark_point(filled=True, size=size, opacity=1).encode(
            x=x, y=value_y(title), tooltip=tooltip(subject), **colour
        )
    )
    return alt.layer(*parts)
